import { thread } from '../lanes';

/** Bytes of 256 weights. */
// @ts-ignore: decorator
@inline export const TQ1_BYTES: i32 = 54;
// @ts-ignore: decorator
@inline export const TQ2_BYTES: i32 = 66;

/**
 * Writes `blocks` blocks of TQ1_0 as TQ2_0, same weights and scales (src/gguf/layouts/ draws both).
 *
 * The highest of a byte's five trits t is in which third of 0 … 255 the byte x lies: t = (x > 85) + (x > 170); x times 3 in 8
 * bits has the next one there. With x - 128 for x the comparisons are those of signed bytes, and times 3 stays times 3.
 */
export function repackTq1(from: usize, blocks: i32, to: usize): void {
  const at = thread;
  const one = v128.load(at, 576), two = v128.load(at, 592), half = v128.load(at, 608);
  for (; blocks > 0; blocks--, from += TQ1_BYTES, to += TQ2_BYTES) {
    // Weights 0 … 127 are the first four trits of 32 bytes, 128 … 159 the fifth.
    let a = v128.xor(v128.load(from), half), b = v128.xor(v128.load(from, 16), half);
    let low = trit(a, one, two), high = trit(b, one, two);
    for (let field = 2; field < 8; field += 2) {
      a = times3(a); b = times3(b);
      low = v128.or(low, i16x8.shl(trit(a, one, two), field));
      high = v128.or(high, i16x8.shl(trit(b, one, two), field));
    }
    v128.store(to, low);
    v128.store(to, high, 16);
    low = trit(times3(a), one, two); high = trit(times3(b), one, two);
    // Weights 160 … 239 are five trits of 16 bytes, each half a field.
    a = v128.xor(v128.load(from, 32), half);
    for (let field = 2; field < 6; field += 2) {
      b = times3(a);
      low = v128.or(low, i16x8.shl(trit(a, one, two), field));
      high = v128.or(high, i16x8.shl(trit(b, one, two), field));
      a = times3(b);
    }
    v128.store(to, v128.or(low, i16x8.shl(trit(a, one, two), 6)), 32);
    // Weights 240 … 255 are four trits of 4 bytes.
    a = v128.xor(v128.load32_splat(from, 48), half);
    b = times3(a);
    const c = times3(b);
    a = i64x2.shuffle(i32x4.shuffle(a, b, 0, 4, 0, 4), i32x4.shuffle(c, times3(c), 0, 4, 0, 4), 0, 2);
    v128.store(to, v128.or(high, i16x8.shl(trit(a, one, two), 6)), 48);
    store<u16>(to, load<u16>(from, 52), 64);
  }
}

// @ts-ignore: decorator
@inline function trit(x: v128, one: v128, two: v128): v128 {
  return i8x16.neg(i8x16.add(i8x16.gt_s(x, one), i8x16.gt_s(x, two)));
}

// @ts-ignore: decorator
@inline function times3(x: v128): v128 {
  return i8x16.add(i8x16.add(x, x), x);
}
