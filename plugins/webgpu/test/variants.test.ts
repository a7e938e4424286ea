import { contract } from '../../../test/contract.js';
import { webgpu } from '../dist/index.js';
import { ABILITIES, EACH_PIPELINE } from './abilities.js';

// The forms that kernels take on devices without subgroups, and without the packed dot either.
for (const variant of [
  { subgroup: 0, dot: 'packed' },
  { subgroup: 0, dot: 'float' },
] as const) {
  // The dot is in ternary products only.
  const only = variant.dot === 'float' ? /(i2_s|tq2_0) (127|640)|largest sums/ : EACH_PIPELINE;
  contract(`webgpu, subgroups ${variant.subgroup}, dot ${variant.dot}`, () => webgpu({ selfTest: false, variant }), {
    ...ABILITIES,
    only,
  });
}
