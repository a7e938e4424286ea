import { afterAll, beforeAll, describe, it } from 'vitest';
import { toF16 } from '../../../dist/reference/f16.js';
import { agree } from '../../../test/agree.js';
import { random } from '../../../test/random.js';
import { type OpenDevice, openDevice } from '../dist/device.js';
import { deviceErrors } from '../dist/errors.js';
import { createGpuMemory, type GpuMemory, type GpuTensor } from '../dist/memory.js';
import { createRecorder } from '../dist/recorder.js';
import { declare } from '../dist/shaders/declare.js';
import { EXACT, HALVES } from '../dist/shaders/exact.js';
import { EXP } from '../dist/shaders/exp.js';

const SEED = 1;
const COUNT = 1 << 16;

/** Every exponent that quotients stay normal for, mantissas of all kinds: random, next to a power of two, few bits. */
function numbers(seed: number): Float32Array {
  const r = random(seed);
  return Float32Array.from({ length: COUNT }, (_, i) => {
    const mantissa = [r.below(1 << 23), r.below(3), (1 << 23) - 1 - r.below(3), r.below(1 << 11) << 12][i % 4];
    return 2 ** (r.below(120) - 60) * (1 + mantissa / 2 ** 23) * (r.below(2) === 0 ? 1 : -1);
  });
}

describe('shaders/exact', () => {
  let opened: OpenDevice;
  let memory: GpuMemory;
  beforeAll(async () => {
    opened = await openDevice({});
  });
  afterAll(() => {
    memory.dispose();
    opened.device.destroy();
  });

  it('divides, takes roots, rounds to halves as f32 arithmetic does, and e^x within 2e-7', async () => {
    const { device, variant } = opened;
    const errors = deviceErrors(device);
    memory = createGpuMemory(device, errors);
    const { recorder, record } = createRecorder(device, memory, variant, errors);
    const put = (x: Float32Array): GpuTensor => {
      const tensor = memory.alloc(x.byteLength);
      device.queue.writeBuffer(tensor.buffer, 0, x as Float32Array<ArrayBuffer>);
      return tensor;
    };
    const [a, b] = [numbers(SEED), numbers(SEED + 1)];
    // Five times a number halfway between two floats, in two floats: the quotient is a tie.
    const halfway = (i: number) => 2 ** 24 + 2 * (i & 0x7fffff) + 1;
    const ties = Float32Array.from({ length: 2 * COUNT }, (_, i) => {
      const five = 5 * halfway(i >> 1);
      return i % 2 === 0 ? five : five - Math.fround(five);
    });
    const out = memory.alloc(24 * COUNT);
    const code = `${declare(variant, ['a: array<f32>', 'b: array<f32>', 'ties: array<vec2<f32>>', '*out: array<f32>'], [])}${EXACT}${HALVES}${EXP}
@compute @workgroup_size(256) fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  let i = id.x;
  out[6u * i] = divide(a[i], b[i]);
  out[6u * i + 1u] = squareRoot(abs(a[i]));
  // A mean: the sum in two floats, by 2560.
  out[6u * i + 2u] = divideSum(settled(addTo(addTo(vec2<f32>(0.0), a[i]), a[i] * 0.00001220703125)), 2560.0);
  out[6u * i + 3u] = f32(f16Bits(a[i]));
  out[6u * i + 4u] = exponential(-abs(a[i]));
  out[6u * i + 5u] = divideSum(ties[i], 5.0);
}`;
    const { ready } = record(() =>
      recorder.dispatch({ stem: 'exact', code }, [put(a), put(b), put(ties), out], [], [COUNT / 256]),
    );
    const encoder = device.createCommandEncoder();
    const pass = encoder.beginComputePass();
    for (const { pipeline, group, groups } of await ready) {
      pass.setPipeline(pipeline);
      pass.setBindGroup(0, group);
      pass.dispatchWorkgroups(...groups);
    }
    pass.end();
    const copy = memory.create(out.bytes, 0x01 | 0x08);
    encoder.copyBufferToBuffer(out.buffer, 0, copy, 0, out.bytes);
    device.queue.submit([encoder.finish()]);
    await copy.mapAsync(1);
    const actual = new Float32Array(copy.getMappedRange().slice(0));
    copy.unmap();
    await errors.check();
    const f32 = Math.fround;
    const cases: [string, (i: number) => number, (e: number) => number][] = [
      ['divide', (i) => f32(a[i] / b[i]), () => 0],
      ['squareRoot', (i) => f32(Math.sqrt(Math.abs(a[i]))), () => 0],
      ['divideSum', (i) => f32((a[i] + f32(a[i] * 0.00001220703125)) / 2560), () => 0],
      ['f16Bits', (i) => toF16(a[i]), () => 0],
      ['exponential', (i) => Math.exp(-Math.abs(a[i])), (e) => (e < 1.2e-38 ? 1.2e-38 : 2e-7 * e)],
      ['divideSum, ties', halfway, () => 0],
    ];
    for (const [n, [op, expect, bound]] of cases.entries()) {
      const expected = Float32Array.from({ length: COUNT }, (_, i) => expect(i));
      const got = Float32Array.from({ length: COUNT }, (_, i) => actual[6 * i + n]);
      agree({ op, seed: SEED, expected, actual: got, bound: expected.map(bound) });
    }
  });
});
