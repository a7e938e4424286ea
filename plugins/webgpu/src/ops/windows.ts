import type { GpuTensor } from '../memory.ts';
import type { Bound, Recorder } from '../recorder.ts';

/** Rows of a matrix that are bound at once. */
export interface Window {
  readonly first: number;
  readonly rows: number;
  readonly bound: Bound;
}

export interface Windows {
  /** Rows of each window but the last. */
  readonly each: number;
  readonly windows: readonly Window[];
}

/**
 * `rows` rows of `rowBytes` as the fewest windows that the device binds: whole rows, from offsets that it takes.
 *
 * @throws RangeError when not even the rows up to the next such offset can be bound
 */
export function windowsOf({ limits }: Recorder, { buffer }: GpuTensor, rows: number, rowBytes: number): Windows {
  const { maxStorageBufferBindingSize: most, minStorageBufferOffsetAlignment: alignment } = limits;
  // Offsets are powers of two apart: rows from one that two row ends meet to the next.
  const step = alignment / greatestPower(rowBytes, alignment);
  // Shaders count bytes in 32 bits.
  const fit = Math.floor(Math.min(most, 2 ** 32 - alignment) / rowBytes);
  const each = rows <= fit ? rows : fit - (fit % step);
  if (each === 0) {
    throw new RangeError(
      `webgpu: ${step} rows of ${rowBytes} bytes are read at once; this device binds ${most} bytes at most`,
    );
  }
  const windows = Array.from({ length: Math.ceil(rows / each) }, (_, i): Window => {
    const first = i * each;
    const count = Math.min(each, rows - first);
    // Up to the end of a vector, which all buffers have.
    const size = Math.ceil((count * rowBytes) / 16) * 16;
    return { first, rows: count, bound: { buffer, offset: first * rowBytes, size } };
  });
  return { each, windows };
}

/** The largest power of two, up to `most`, that divides n. */
function greatestPower(n: number, most: number): number {
  let power = 1;
  while (power < most && n % (2 * power) === 0) power *= 2;
  return power;
}
