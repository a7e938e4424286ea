// GGUF -> GGUF: every key and tensor is kept; what has to change for the engine that is to open the file, is.
import { type GgufHeader, readHeader, type TensorInfo } from '../gguf/header.ts';
import type { Source } from '../gguf/source.ts';
import { isTiled, type TilesOption, tilesOf } from '../gguf/tiles.ts';
import { type TypedValue, typedMetadata } from '../gguf/writer.ts';
import { ConvertError } from './error.ts';
import type { InputTensor } from './input.ts';
import type { Plan } from './plan.ts';
import { isForkType, type MatrixType } from './types.ts';

/** Architectures with BitNet's graph. bitnet.cpp knows all three, llama.cpp the last. */
const BITNET = ['bitnet-b1.58', 'bitnet-25', 'bitnet'];
/** Vocabulary of 2B-4T, whose llama.cpp conversions are called `bitnet` and need not say that they have ReLU². */
const VOCAB_2B_4T = 128_256;

/**
 * @param type of the matrices that are to be written: it decides which engine opens the file
 * @param layout tiles of TL1 and TL2 tensors, where the file does not tell them
 * @throws GgufError on a file that is not a well-formed one, ConvertError on one without an architecture
 */
export async function planFromGguf(source: Source, type: MatrixType, layout?: TilesOption): Promise<Plan> {
  const header = await readHeader(source);
  const metadata = typedMetadata(header);
  const notes = [...header.warnings];
  const architecture = header.metadata.get('general.architecture');
  if (typeof architecture !== 'string') throw new ConvertError(`${source.name}: general.architecture is missing`);
  for (const key of metadata.keys()) if (key.startsWith('ternlm.tiles.')) metadata.delete(key);

  const tensors = [...header.tensors.values()];
  const skipped = new Set<string>();
  const to = architectureFor(type, architecture, header.metadata, header.tensors.get('token_embd.weight'));
  if (to !== architecture) {
    metadata.delete('bitnet.hidden_activation'); // the other names tell it
    rename(metadata, architecture, to);
    notes.push(
      `architecture ${architecture} written as ${to}, its name in ${isForkType(type) ? 'bitnet.cpp' : 'llama.cpp'}`,
    );
  }
  if (to === 'bitnet' && architecture !== 'bitnet') {
    metadata.set('bitnet.hidden_activation', { type: 'string', value: 'relu2' });
    // Under the other names the head is token_embd whatever the file holds; as `bitnet` this one would count.
    if (header.tensors.has('output.weight')) {
      skipped.add('output.weight');
      notes.push(`output.weight left out: ${architecture} models use token_embd.weight as head`);
    }
  }
  const input = tensors.filter(({ name }) => !skipped.has(name)).map((info) => inputOf(info, source, header, layout));
  return { metadata, tensors: input, notes, close: async () => {} };
}

function inputOf(
  { name, type, dims, at, bytes }: TensorInfo,
  source: Source,
  header: GgufHeader,
  layout: TilesOption | undefined,
): InputTensor {
  const where = `${source.name}: tensor '${name}'`;
  const tiles = isTiled(type) ? tilesOf(type, dims, header.metadata, where, layout).tiles : undefined;
  return { name, where, dims, file: source, at, bytes, type, kept: type, tiles };
}

/** What the engine that opens files of this type calls the architecture. */
function architectureFor(
  type: MatrixType,
  architecture: string,
  metadata: ReadonlyMap<string, unknown>,
  embedding: TensorInfo | undefined,
): string {
  if (!BITNET.includes(architecture)) return architecture;
  if (!isForkType(type)) return 'bitnet';
  if (architecture !== 'bitnet') return architecture;
  // bitnet.cpp computes SiLU for `bitnet`, as bitnet_b1_58-large and -3B have it.
  const activation = metadata.get('bitnet.hidden_activation');
  const vocab = metadata.get('bitnet.vocab_size') ?? embedding?.dims[1];
  return activation === 'relu2' || (activation === undefined && vocab === VOCAB_2B_4T) ? 'bitnet-b1.58' : 'bitnet';
}

/** Keeps the order of the keys. */
function rename(metadata: Map<string, TypedValue>, from: string, to: string): void {
  const entries = [...metadata];
  metadata.clear();
  for (const [key, value] of entries) {
    metadata.set(key.startsWith(`${from}.`) ? to + key.slice(from.length) : key, value);
  }
  metadata.set('general.architecture', { type: 'string', value: to });
}
