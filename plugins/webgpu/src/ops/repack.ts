import type { Matrix, Ops } from 'ternlm/backend';
import type { GpuTensor } from '../memory.ts';
import type { Recorder } from '../recorder.ts';
import { checkTernary } from '../shaders/check_ternary.ts';
import { THREADS } from '../shaders/declare.ts';
import { repackTq1 } from '../shaders/repack.ts';
import { repackTl } from '../shaders/repack_tl.ts';

type T = GpuTensor;

/** Workgroups of one dispatch that every device takes; threads with more to do go round. */
const MOST_GROUPS = 65_535;
const groupsFor = (words: number): [number] => [Math.min(Math.ceil(words / THREADS), MOST_GROUPS)];

const blocksOf = ({ rows, cols }: Matrix<T>): number => (rows * cols) / 256;
const i2sWords = ({ rows, cols }: Matrix<T>): number => rows * 8 * Math.ceil(cols / 128);

/** Bytes at which parts of a TL1 or TL2 matrix begin (src/gguf/layouts draws them); TL1 has but indices. */
function partsOf({ type, rows, cols, tiles }: Matrix<T>) {
  if (tiles === undefined) throw new Error(`webgpu: a matrix of ${type} without tiles`);
  if (type === 'tl1') {
    const end = (rows * cols) / 4;
    return { tiles, most: 8, signs: end, pairs: end, padding: end, scale: end };
  }
  const tripled = cols - (cols % tiles.cols);
  const signs = (rows * tripled) / 6;
  const pairs = signs + (rows * tripled) / 24;
  const padding = pairs + (rows * (cols - tripled)) / 4;
  const triples = Math.floor((Math.floor(((cols - 256) * rows) / 3) * 5) / 8);
  return { tiles, most: 13, signs, pairs, padding, scale: Math.ceil((triples + 64 * rows) / 32) * 32 };
}

/** What is done once with ternary matrices when they are loaded. */
export function repackOps(g: Recorder): Pick<Ops<T>, 'checkTernary' | 'repack'> {
  function check(w: Matrix<T>, found: T, at: number): void {
    const buffers = [w.tensor, found];
    if (w.type === 'i2_s') {
      const words = i2sWords(w);
      g.dispatch(checkTernary(g.variant, 'codes'), buffers, [words, at / 4], groupsFor(words));
    } else if (w.type === 'tq2_0') {
      // What is left of an odd number of halves is a scale.
      const words = Math.floor((33 * blocksOf(w)) / 2);
      g.dispatch(checkTernary(g.variant, 'blocks'), buffers, [words, at / 4], groupsFor(words));
    } else {
      const { most, signs, pairs, padding, scale } = partsOf(w);
      const parts = [most, signs / 4, pairs / 4, padding / 4];
      g.dispatch(checkTernary(g.variant, 'indices'), buffers, [scale / 4, at / 4, ...parts], groupsFor(scale / 4));
    }
  }

  return {
    checkTernary: ({ w, found, at }) => check(w, found, at),
    repack({ from, to, found, at }) {
      const { type, rows, cols } = from;
      if (type === 'tq1_0') {
        const halves = 33 * blocksOf(from);
        g.dispatch(repackTq1(g.variant), [from.tensor, to.tensor], [halves], groupsFor(halves / 2));
        return;
      }
      if (type !== 'tl1' && type !== 'tl2') throw new RangeError(`webgpu: matrices of ${type} are not repacked`);
      check(from, found, at);
      const { tiles, signs, pairs, scale } = partsOf(from);
      const words = [rows, cols, tiles.rows, tiles.cols, tiles.sub, signs, pairs, scale];
      g.dispatch(repackTl(g.variant, type), [from.tensor, to.tensor], words, groupsFor(i2sWords(to) + 8));
    },
  };
}
