/**
 * How a token is picked from logits. The chain is llama.cpp's (common/sampling.cpp, src/llama-sampler.cpp), with its defaults:
 *
 *   logit bias -> penalties -> top-k -> top-p -> min-p -> temperature -> draw
 *
 * Top-p and min-p see the softmax before temperature; each filter keeps at least one token. Tokens stand by logit
 * descending, then id ascending; the draw is the first whose cumulative probability reaches a number in [0, 1) that depends
 * only on the seed and on how many tokens the sequence has drawn before. The arithmetic is in src/reference/sample.ts.
 */

export interface SamplerOptions {
  /** Logits are divided by it; 0 or less takes the likeliest token. Default 0.8. */
  readonly temperature?: number;
  /** Keep the k likeliest tokens; 0 or less keeps all. Default 40. */
  readonly topK?: number;
  /** Keep the likeliest tokens up to the one with which they have this share of the probability; 1 keeps all. Default 0.95. */
  readonly topP?: number;
  /** Keep tokens with at least this share of the likeliest one's probability; 0 keeps all. Default 0.05. */
  readonly minP?: number;
  /** Divides positive and multiplies negative logits of recent tokens; 1 is none. Default 1. */
  readonly repeatPenalty?: number;
  /** How many of the last tokens the three penalties see; -1 is the whole context, 0 none. Default 64. */
  readonly repeatLastN?: number;
  /** Taken off a recent token's logit once for each time it occurs. Default 0. */
  readonly frequencyPenalty?: number;
  /** Taken off a recent token's logit once. Default 0. */
  readonly presencePenalty?: number;
  /** Added to logits, by token id; -Infinity bans a token, Infinity forces it. At most 1024 ids. */
  readonly logitBias?: Readonly<Record<number, number>> | ReadonlyMap<number, number>;
  /** Any safe integer; -1 or nothing draws one at random. */
  readonly seed?: number;
}

/** Checked options; `seed` is the one in use. */
export interface ResolvedSampler {
  readonly temperature: number;
  readonly topK: number;
  readonly topP: number;
  readonly minP: number;
  readonly repeatPenalty: number;
  readonly repeatLastN: number;
  readonly frequencyPenalty: number;
  readonly presencePenalty: number;
  readonly biasIds: Int32Array;
  readonly biases: Float32Array;
  readonly seed: number;
}

/** A token, its raw logit and its probability in the softmax of all raw logits: before bias, penalties and temperature. */
export interface Pick {
  /** -1 if no logit was a number above -Infinity. */
  id: number;
  logit: number;
  probability: number;
}

/** Room for biased ids in every row's params. */
const MAX_BIASES = 1024;

/**
 * What the op reads for a row, little-endian; `stride` bytes from one row to the next.
 *
 *    0  seed              i64
 *    8  step              u32  tokens that the sequence has drawn before
 *   12  topK              i32  0: all
 *   16  temperature       f64  0 or less: greedy
 *   24  topP              f64  1: all
 *   32  ln minP           f32  -Infinity: all
 *   36  repeatPenalty     f32
 *   40  frequencyPenalty  f32
 *   44  presencePenalty   f32
 *   48  biases            i32
 *   52  recents           i32
 *   56  mostRecents       i32  how many may be under penalty: until then the next token is added, from then on it replaces
 *   60  oldest            i32  the entry at this index, which goes round
 *   64  {id i32, bias f32} [biases]
 *    …  id i32 [recents]  tokens under penalty, one entry for each time they occur
 */
const HEADER_BYTES = 64;

/**
 * What the op leaves for a row.
 *
 *    0  id           i32
 *    4  logit        f32
 *    8  probability  f64
 */
export const PICK_BYTES = 16;

/** Bytes of a row's params (the op's `stride`) for sequences of up to `context` tokens. */
export function paramsBytes(context: number): number {
  return Math.ceil((HEADER_BYTES + 8 * MAX_BIASES + 4 * context) / 64) * 64;
}

/** Options with the defaults filled in. Throws a RangeError that names the option, what was expected and what was given. */
export function resolveSampler(options: SamplerOptions, vocab: number): ResolvedSampler {
  const {
    temperature = 0.8,
    topK = 40,
    topP = 0.95,
    minP = 0.05,
    repeatPenalty = 1,
    repeatLastN = 64,
    frequencyPenalty = 0,
    presencePenalty = 0,
    logitBias = {},
    seed = -1,
  } = options;
  check('temperature', temperature, Number.isFinite(temperature), 'a finite number');
  check('topK', topK, Number.isSafeInteger(topK), 'an integer');
  check('topP', topP, isShare(topP), 'a number from 0 to 1');
  check('minP', minP, isShare(minP), 'a number from 0 to 1');
  check('repeatPenalty', repeatPenalty, isF32(repeatPenalty) && Math.fround(repeatPenalty) > 0, 'a number above 0');
  check('repeatLastN', repeatLastN, Number.isSafeInteger(repeatLastN) && repeatLastN >= -1, 'an integer from -1 up');
  check('frequencyPenalty', frequencyPenalty, isF32(frequencyPenalty), 'a finite number');
  check('presencePenalty', presencePenalty, isF32(presencePenalty), 'a finite number');
  check('seed', seed, Number.isSafeInteger(seed), 'an integer of at most 53 bits');
  return {
    temperature,
    topK,
    topP,
    minP,
    repeatPenalty,
    repeatLastN,
    frequencyPenalty,
    presencePenalty,
    ...resolveBias(logitBias, vocab),
    seed: seed === -1 ? crypto.getRandomValues(new Uint32Array(1))[0] : seed,
  };
}

function resolveBias(
  logitBias: NonNullable<SamplerOptions['logitBias']>,
  vocab: number,
): { biasIds: Int32Array; biases: Float32Array } {
  check('logitBias', logitBias, typeof logitBias === 'object' && logitBias !== null, 'an object or a Map');
  const entries = Object.entries<number>(logitBias instanceof Map ? Object.fromEntries(logitBias) : logitBias);
  check('logitBias', entries.length, entries.length <= MAX_BIASES, `at most ${MAX_BIASES} token ids`);
  for (const [id, bias] of entries) {
    check('logitBias', id, /^\d{1,10}$/.test(id) && Number(id) < vocab, `token ids from 0 to ${vocab - 1}`);
    check(`logitBias[${id}]`, bias, typeof bias === 'number' && !Number.isNaN(bias), 'a number');
  }
  return {
    biasIds: Int32Array.from(entries, ([id]) => Number(id)),
    biases: Float32Array.from(entries, ([, bias]) => bias),
  };
}

function isShare(value: number): boolean {
  return Number.isFinite(value) && value >= 0 && value <= 1;
}

function isF32(value: number): boolean {
  return Number.isFinite(value) && Number.isFinite(Math.fround(value));
}

function check(option: string, value: unknown, valid: boolean, expected: string): void {
  if (!valid) throw new RangeError(`${option}: expected ${expected}, got ${show(value)}`);
}

function show(value: unknown): string {
  return typeof value === 'string' ? JSON.stringify(value) : String(value);
}

/**
 * Writes the params of one row; returns how many bytes that took. `step` counts the tokens that the sequence has drawn
 * before, `tokens` [length] is all of it, prompt included, ids in [0, vocab).
 */
export function writeParams(
  row: DataView,
  sampler: ResolvedSampler,
  step: number,
  tokens: ArrayLike<number>,
  length: number,
): number {
  const { repeatPenalty, frequencyPenalty, presencePenalty, biasIds, biases, seed } = sampler;
  const penalised = repeatPenalty !== 1 || frequencyPenalty !== 0 || presencePenalty !== 0;
  const window = !penalised ? 0 : sampler.repeatLastN < 0 ? length : Math.min(sampler.repeatLastN, length);
  row.setUint32(0, seed >>> 0, true);
  row.setInt32(4, Math.floor(seed / 2 ** 32), true);
  row.setUint32(8, step, true);
  row.setInt32(12, Math.max(0, Math.min(sampler.topK, 0x7fffffff)), true);
  row.setFloat64(16, sampler.temperature, true);
  row.setFloat64(24, sampler.topP, true);
  row.setFloat32(32, Math.log(sampler.minP), true);
  row.setFloat32(36, repeatPenalty, true);
  row.setFloat32(40, frequencyPenalty, true);
  row.setFloat32(44, presencePenalty, true);
  row.setInt32(48, biasIds.length, true);
  row.setInt32(52, window, true);
  const room = Math.floor((row.byteLength - HEADER_BYTES - 8 * biasIds.length) / 4);
  row.setInt32(56, !penalised ? 0 : sampler.repeatLastN < 0 ? room : Math.min(sampler.repeatLastN, room), true);
  row.setInt32(60, 0, true);
  let at = HEADER_BYTES;
  for (let i = 0; i < biasIds.length; i++, at += 8) {
    row.setInt32(at, biasIds[i], true);
    row.setFloat32(at + 4, biases[i], true);
  }
  for (let i = length - window; i < length; i++, at += 4) row.setInt32(at, tokens[i], true);
  return at;
}

/** Reads the pick at byte `at` into `pick` and returns it. */
export function readPick(picks: DataView, at: number, pick: Pick): Pick {
  pick.id = picks.getInt32(at, true);
  pick.logit = picks.getFloat32(at + 4, true);
  pick.probability = picks.getFloat64(at + 8, true);
  return pick;
}
