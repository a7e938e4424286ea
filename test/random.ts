import type { DenseType } from '../dist/backend/backend.js';
import * as q40 from '../dist/gguf/layouts/q4_0.js';
import * as q6k from '../dist/gguf/layouts/q6_k.js';
import * as q80 from '../dist/gguf/layouts/q8_0.js';
import { toBf16, toF16 } from '../dist/reference/f16.js';

/** Seeded random numbers and weights. */
export interface Random {
  readonly seed: number;
  /** In [0, 1). */
  uniform(): number;
  /** 0 .. n - 1. */
  below(n: number): number;
  /** [n] f32, normal with this deviation. */
  normal(n: number, deviation?: number): Float32Array<ArrayBuffer>;
  /** 0 .. n - 1 in random order. */
  shuffled(n: number): number[];
}

/** mulberry32 (Tommy Ettinger 2017, public domain): 32 bits of state are plenty for test inputs. */
export function random(seed: number): Random {
  let state = seed >>> 0;
  const uniform = (): number => {
    state = (state + 0x6d2b79f5) >>> 0;
    let z = Math.imul(state ^ (state >>> 15), state | 1);
    z ^= z + Math.imul(z ^ (z >>> 7), z | 61);
    return ((z ^ (z >>> 14)) >>> 0) / 2 ** 32;
  };
  const below = (n: number): number => Math.floor(uniform() * n);
  return {
    seed,
    uniform,
    below,
    normal(n, deviation = 1) {
      const x = new Float32Array(n);
      for (let i = 0; i < n; i += 2) {
        // Box and Muller: two independent normals from a radius and an angle.
        const radius = deviation * Math.sqrt(-2 * Math.log(1 - uniform()));
        const angle = 2 * Math.PI * uniform();
        x[i] = radius * Math.cos(angle);
        if (i + 1 < n) x[i + 1] = radius * Math.sin(angle);
      }
      return x;
    },
    shuffled(n) {
      const order = Array.from({ length: n }, (_, i) => i);
      for (let i = n - 1; i > 0; i--) {
        const j = below(i + 1);
        [order[i], order[j]] = [order[j], order[i]];
      }
      return order;
    },
  };
}

/** A seed from a case's name, so that a case keeps its inputs wherever it stands (FNV-1a). */
export function seedOf(name: string): number {
  let hash = 0x811c9dc5;
  for (const char of name) hash = Math.imul(hash ^ char.charCodeAt(0), 0x01000193);
  return hash >>> 0;
}

/** A random ternary matrix of `type`; of I2_S [rows] of blocks of 32 bytes, then the 32-byte tail with its scale. Scales of TQ blocks have either sign; some are subnormal, some 0. */
export function ternaryBytes(
  r: Random,
  rows: number,
  cols: number,
  type: 'i2_s' | 'tq1_0' | 'tq2_0' = 'i2_s',
): Uint8Array<ArrayBuffer> {
  if (type !== 'i2_s') {
    const stride = type === 'tq1_0' ? 54 : 66;
    const code = (): number => (type === 'tq1_0' ? r.below(256) : ternaryByte(r));
    const bytes = Uint8Array.from({ length: ((rows * cols) / 256) * stride }, code);
    const view = new DataView(bytes.buffer);
    for (let at = stride - 2; at < bytes.length; at += stride) {
      const scale = (r.uniform() - 0.5) / Math.sqrt(cols);
      view.setUint16(at, toF16(scale * [1, 1, 1, 2 ** -10, 0][r.below(5)]), true);
    }
    return bytes;
  }
  const tail = rows * 32 * Math.ceil(cols / 128);
  const bytes = new Uint8Array(tail + 32).fill(0xff, tail + 4);
  for (let i = 0; i < tail; i++) {
    bytes[i] = ternaryByte(r);
  }
  new DataView(bytes.buffer).setFloat32(tail, (0.5 + r.uniform()) / Math.sqrt(cols), true);
  return bytes;
}

/** Four codes 0 … 2. */
function ternaryByte(r: Random): number {
  return (r.below(3) << 6) | (r.below(3) << 4) | (r.below(3) << 2) | r.below(3);
}

/** x as bytes of `type`, each number to the nearest. */
export function denseBytes(type: DenseType, x: Float32Array<ArrayBuffer>): Uint8Array<ArrayBuffer> {
  if (type === 'f32') return new Uint8Array(x.buffer);
  if (type === 'q8_0') return q80.encode(x);
  if (type === 'q6_k') return q6k.encode(x);
  if (type === 'q4_0') return q40.encode(x);
  const halves = new Uint16Array(x.length);
  for (let i = 0; i < x.length; i++) halves[i] = type === 'f16' ? toF16(x[i]) : toBf16(x[i]);
  return new Uint8Array(halves.buffer);
}

/** Angles of RoPE f32 [context][ropeDim / 2][cos, sin], as ggml's: each frequency is the last one times f32(base^(-2 / n)). */
export function ropeTable(context: number, ropeDim: number, base: number): Float32Array<ArrayBuffer> {
  const table = new Float32Array(context * ropeDim);
  const ratio = Math.fround(base ** Math.fround(-2 / ropeDim));
  for (let pos = 0; pos < context; pos++) {
    let angle = pos;
    for (let i = 0; i < ropeDim; i += 2) {
      table[pos * ropeDim + i] = Math.cos(angle);
      table[pos * ropeDim + i + 1] = Math.sin(angle);
      angle = Math.fround(angle * ratio);
    }
  }
  return table;
}
