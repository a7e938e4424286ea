import { contract } from '../../../../test/contract.js';
import { webgpu } from '../../dist/index.js';
import { ABILITIES } from '../abilities.js';

// Subgroups of 4, 256 invocations, no f16: an op of each kind. That it opens at all is a whole model's self-test.
contract('webgpu on SwiftShader', () => webgpu(), {
  ...ABILITIES,
  only: /attn_out (i2_s|tq2_0|f16|q6_k) 127 x \d+, \d+ rows?, norm|attention f16, 20 \/ 5 x 128, .*no order|sample by default|embed q6_k, 5/,
});
