// tokenizer.model of SentencePiece, a protobuf message. Of it are read:
//
//   ModelProto      1 repeated SentencePiece   2 TrainerSpec   3 NormalizerSpec
//   SentencePiece   1 string piece   2 float score   3 enum type (1 normal, 2 unknown, 3 control, 4 user defined, 5 unused, 6 byte)
//   TrainerSpec     3 enum model_type (1 unigram, which is the default, 2 BPE)
//   NormalizerSpec  3 bool add_dummy_prefix, true by default
//
// A field is a varint, number << 3 | wire type, then by that type: 0 a varint, 1 eight bytes, 2 a varint n and n bytes, 5 four
// bytes. The types of pieces have the numbers that GGUF gives them.
import { ConvertError } from './error.ts';

export interface SentencePieces {
  readonly tokens: string[];
  readonly scores: number[];
  readonly types: number[];
  /** Whether a blank is put before a text. */
  readonly addsPrefix: boolean;
}

const BPE = 2;
const NORMAL = 1;

/** @throws ConvertError on what is not a SentencePiece model of the BPE kind */
export function readSentencePieces(bytes: Uint8Array, where: string): SentencePieces {
  const tokens: string[] = [];
  const scores: number[] = [];
  const types: number[] = [];
  let modelType = 1;
  let addsPrefix = true;
  const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
  for (const { number, payload } of fields(bytes, where)) {
    if (number === 1) {
      let [token, score, type]: [string | undefined, number, number] = [undefined, 0, NORMAL];
      for (const field of fields(bytesOf(payload, where), where)) {
        if (field.number === 1) {
          try {
            token = utf8.decode(bytesOf(field.payload, where));
          } catch (cause) {
            throw new ConvertError(`${where}: piece ${tokens.length} is not UTF-8`, { cause });
          }
        } else if (field.number === 2) {
          const four = bytesOf(field.payload, where, 4);
          score = new DataView(four.buffer, four.byteOffset, 4).getFloat32(0, true);
        } else if (field.number === 3) type = numberOf(field.payload, where);
      }
      if (token === undefined || token === '') throw new ConvertError(`${where}: piece ${tokens.length} has no text`);
      if (!(type >= 1 && type <= 6) || !Number.isFinite(score)) {
        throw new ConvertError(
          `${where}: piece ${tokens.length}: type ${type}, score ${score}, expected 1 to 6 and finite`,
        );
      }
      tokens.push(token);
      scores.push(score);
      types.push(type);
    } else if (number === 2 || number === 3) {
      for (const field of fields(bytesOf(payload, where), where)) {
        if (field.number !== 3) continue;
        if (number === 2) modelType = numberOf(field.payload, where);
        else addsPrefix = numberOf(field.payload, where) !== 0;
      }
    }
  }
  if (tokens.length === 0) throw new ConvertError(`${where}: no pieces, expected a SentencePiece model`);
  if (modelType !== BPE) throw new ConvertError(`${where}: model type ${modelType}, expected ${BPE} (BPE)`);
  return { tokens, scores, types, addsPrefix };
}

type Payload = number | Uint8Array;

function* fields(bytes: Uint8Array, where: string): Generator<{ number: number; payload: Payload }> {
  let at = 0;
  const varint = (): number => {
    let value = 0;
    // Ten bytes hold 64 bits; what is used here fits the 53 of a number, the rest only has to be passed over.
    for (let i = 0; i < 10; i++) {
      if (at >= bytes.length) break;
      const byte = bytes[at++];
      value += (byte & 127) * 2 ** (7 * i);
      if (byte < 128) return value;
    }
    throw new ConvertError(`${where}: byte ${at}: unfinished number, expected a SentencePiece model`);
  };
  while (at < bytes.length) {
    const key = varint();
    const wire = key & 7;
    if (wire === 0) {
      yield { number: Math.floor(key / 8), payload: varint() };
      continue;
    }
    const n = wire === 2 ? varint() : wire === 1 ? 8 : wire === 5 ? 4 : Number.NaN;
    if (!(n <= bytes.length - at)) {
      const what = Number.isNaN(n) ? `wire type ${wire}` : `${n} bytes, of which ${bytes.length - at} are there`;
      throw new ConvertError(`${where}: byte ${at}: ${what}, expected a SentencePiece model`);
    }
    yield { number: Math.floor(key / 8), payload: bytes.subarray(at, at + n) };
    at += n;
  }
}

function bytesOf(payload: Payload, where: string, length?: number): Uint8Array {
  if (typeof payload !== 'number' && (length === undefined || payload.length === length)) return payload;
  throw new ConvertError(`${where}: a field of another type, expected a SentencePiece model`);
}

function numberOf(payload: Payload, where: string): number {
  if (typeof payload === 'number') return payload;
  throw new ConvertError(`${where}: a field of another type, expected a SentencePiece model`);
}
