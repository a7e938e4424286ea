import { describe, expect, it } from 'vitest';
import { emptyDevice } from '../counting_device.js';
import { encoded, SHAPE_2B } from '../shape.js';

// What a token of a real model costs in commands and in bytes that come back, whatever the device.

const MiB = 2 ** 20;

/** A start of `repeats` tokens of `rows` sequences each. */
const startOf = (maxStorageBufferBindingSize: number, rows: number, repeats: number) =>
  encoded(emptyDevice({ maxBufferSize: 4096 * MiB - 4, maxStorageBufferBindingSize }), SHAPE_2B, rows, repeats);

describe('a token of BitNet-b1.58-2B-4T', () => {
  // Six dispatches of each of 30 layers; embedding, head and sampling have 11 in all.
  const MOST = 191;

  it.each([
    ['in one binding', 2048 * MiB - 4],
    ['in windows of 128 MiB', 128 * MiB],
  ])('takes at most 191 dispatches, and 16 bytes come back, the embedding %s', async (_how, bindingBytes) => {
    const one = await startOf(bindingBytes, 1, 1);
    expect(one.dispatches).toBeGreaterThan(6 * 30);
    expect(one.dispatches).toBeLessThanOrEqual(MOST);
    expect([one.submits, one.readBytes]).toEqual([1, 16]);
    const sixteen = await startOf(bindingBytes, 1, 16);
    expect(sixteen).toEqual({ dispatches: 16 * one.dispatches, submits: 1, readBytes: 16 * 16 });
  });

  it('of each of four sequences at once: 16 bytes each', async () => {
    const four = await startOf(128 * MiB, 4, 16);
    expect([four.submits, four.readBytes]).toEqual([1, 16 * 4 * 16]);
  });
});
