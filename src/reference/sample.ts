/**
 * Picks a token from logits [vocab] f32 by the params block of a row; params and pick are drawn in src/sampler.ts. Biased and
 * penalised logits are rounded to f32, weights are f64.
 *
 *   bias      added; an infinite one replaces the logit
 *   penalties of a token that occurs n > 0 times: z / repeat if z > 0, else z * repeat; then - (n * frequency + presence)
 *   order     by logit descending, then id ascending; without NaN and -Infinity; +Infinity is the largest float
 *   top-k     the first k
 *   top-p     the shortest prefix whose weight, e^z, is at least topP times that of all that top-k left
 *   min-p     z >= first z + ln(minP), in f32
 *   draw      the last token of the shortest prefix whose weight, e^(z / temperature), is at least u times that of all that
 *             are left
 */
export function sample(logits: Float32Array, params: DataView, pick: DataView): void {
  const f32 = Math.fround;
  const temperature = params.getFloat64(16, true);
  const topK = params.getInt32(12, true);
  const topP = params.getFloat64(24, true);

  const z = adjusted(logits, params);
  let tokens = [...z.keys()].filter((id) => z[id] > Number.NEGATIVE_INFINITY).sort((a, b) => z[b] - z[a] || a - b);
  if (tokens.length > 0) {
    const first = z[tokens[0]];
    if (topK > 0) tokens = tokens.slice(0, topK);
    if (topP < 1)
      tokens = tokens.slice(
        0,
        cut(tokens, (id) => Math.exp(z[id] - first), topP),
      );
    const floor = f32(first + params.getFloat32(32, true));
    tokens = tokens.filter((id, i) => i === 0 || z[id] >= floor);
    if (temperature > 0) {
      const u = uniform(params.getBigUint64(0, true), params.getUint32(8, true));
      tokens = tokens.slice(
        0,
        cut(tokens, (id) => Math.exp((z[id] - first) / temperature), u),
      );
    } else {
      tokens = tokens.slice(0, 1);
    }
  }

  const id = tokens.at(-1) ?? -1;
  pick.setInt32(0, id, true);
  pick.setFloat32(4, id < 0 ? Number.NaN : logits[id], true);
  pick.setFloat64(8, id < 0 ? 0 : softmax(logits)[id], true);
}

/** Logits with bias and penalties. */
function adjusted(logits: Float32Array, params: DataView): Float32Array {
  const f32 = Math.fround;
  const repeat = params.getFloat32(36, true);
  const frequency = params.getFloat32(40, true);
  const presence = params.getFloat32(44, true);
  const biases = params.getInt32(48, true);
  const recents = params.getInt32(52, true);
  const recentsAt = 64 + 8 * biases;

  const z = logits.slice();
  for (let at = 64; at < recentsAt; at += 8) {
    const id = params.getInt32(at, true);
    const bias = params.getFloat32(at + 4, true);
    z[id] = Number.isFinite(bias) ? z[id] + bias : bias;
  }
  const counts = new Map<number, number>();
  for (let i = 0; i < recents; i++) {
    const id = params.getInt32(recentsAt + 4 * i, true);
    counts.set(id, (counts.get(id) ?? 0) + 1);
  }
  for (const [id, count] of counts) {
    const repeated = f32(z[id] > 0 ? z[id] / repeat : z[id] * repeat);
    z[id] = repeated - f32(f32(count * frequency) + presence);
  }
  return z.map(bounded);
}

function bounded(z: number): number {
  return z === Number.POSITIVE_INFINITY ? 3.4028234663852886e38 : z;
}

/** Length of the shortest prefix that has `share` of the weight. */
function cut(tokens: number[], weight: (id: number) => number, share: number): number {
  const goal = share * tokens.reduce((sum, id) => sum + weight(id), 0);
  let sum = 0;
  const last = tokens.findIndex((id) => {
    sum += weight(id);
    return sum >= goal;
  });
  return last + 1;
}

function softmax(logits: Float32Array): Float64Array {
  const z = Float64Array.from(logits, (v) => (Number.isNaN(v) ? Number.NEGATIVE_INFINITY : bounded(v)));
  const peak = z.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY);
  if (peak === Number.NEGATIVE_INFINITY) return z.fill(0);
  const e = z.map((v) => Math.exp(v - peak));
  const total = e.reduce((a, b) => a + b, 0);
  return e.map((v) => v / total);
}

/** In [0, 1), from splitmix64's output function (Steele, Lea, Flood 2014) over the seed, then over that plus the step. */
function uniform(seed: bigint, step: number): number {
  return Number(mix(mix(seed) + BigInt(step)) >> 11n) / 2 ** 53;
}

function mix(seed: bigint): bigint {
  const u64 = (x: bigint) => BigInt.asUintN(64, x);
  let x = u64(seed + 0x9e3779b97f4a7c15n);
  x = u64((x ^ (x >> 30n)) * 0xbf58476d1ce4e5b9n);
  x = u64((x ^ (x >> 27n)) * 0x94d049bb133111ebn);
  return x ^ (x >> 31n);
}
