import { SafetensorsError } from './error.ts';
import { type Bytes, readSafetensors, type SafetensorsTensor } from './header.ts';

/** The files of a checkpoint, wherever they lie: a directory, an upload, a server. */
export interface Folder {
  /** For messages. */
  readonly name: string;
  /** A file by its name, or undefined where there is none. */
  open(file: string): Promise<(Bytes & { close(): Promise<void> }) | undefined>;
}

/** A tensor and the file that holds it. */
export interface CheckpointTensor extends SafetensorsTensor {
  readonly file: Bytes;
}

export interface Checkpoint {
  readonly tensors: ReadonlyMap<string, CheckpointTensor>;
  close(): Promise<void>;
}

const SINGLE = 'model.safetensors';
const INDEX = 'model.safetensors.index.json';
const MAX_INDEX_BYTES = 64 << 20;

/**
 * Opens model.safetensors, or the shards that model.safetensors.index.json names. Other files of the folder are never
 * touched: a shard's name must be a plain file name.
 * @throws SafetensorsError on a missing shard, a tensor that is not in the shard that the index names or stands in two, and as
 * readSafetensors does
 */
export async function openCheckpoint(folder: Folder): Promise<Checkpoint> {
  const opened: { close(): Promise<void> }[] = [];
  const close = async () => {
    for (const file of opened) await file.close();
  };
  try {
    const index = await readIndex(folder);
    const tensors = new Map<string, CheckpointTensor>();
    for (const shard of index === undefined ? [SINGLE] : new Set(index.values())) {
      const file = await folder.open(shard);
      if (file === undefined) {
        const why = index === undefined ? `no ${SINGLE} and no ${INDEX}` : `no ${shard}, which ${INDEX} names`;
        throw new SafetensorsError(`${folder.name}: ${why}`);
      }
      opened.push(file);
      for (const tensor of (await readSafetensors(file)).tensors.values()) {
        const { name } = tensor;
        if (index !== undefined && index.get(name) !== shard) {
          const expected = index.has(name) ? `expected in ${index.get(name)}` : 'not expected at all';
          throw new SafetensorsError(`${folder.name}: tensor '${name}' is in ${shard}, ${expected} (${INDEX})`);
        }
        tensors.set(name, { ...tensor, file });
      }
    }
    for (const [name, shard] of index ?? []) {
      if (!tensors.has(name)) {
        throw new SafetensorsError(`${folder.name}: tensor '${name}' is not in ${shard}, as ${INDEX} says`);
      }
    }
    return { tensors, close };
  } catch (error) {
    await close();
    throw error;
  }
}

/** Shard by tensor name, or undefined where there is no index. */
async function readIndex(folder: Folder): Promise<Map<string, string> | undefined> {
  const index = await readJson(folder, INDEX, MAX_INDEX_BYTES);
  if (index === undefined) return undefined;
  const where = `${folder.name}: ${INDEX}`;
  const map = index.weight_map;
  if (typeof map !== 'object' || map === null || Array.isArray(map)) {
    throw new SafetensorsError(`${where}: weight_map: expected an object, tensor name to file name`);
  }
  const entries = Object.entries(map as Record<string, unknown>);
  for (const [name, shard] of entries) {
    // A name that leads out of the folder must not be followed.
    if (typeof shard !== 'string' || !/^[^/\\:]+\.safetensors$/.test(shard) || shard.startsWith('.')) {
      const got = JSON.stringify(shard);
      throw new SafetensorsError(
        `${where}: tensor '${name}': file ${got}, expected the plain name of a .safetensors file`,
      );
    }
  }
  return new Map(entries as [string, string][]);
}

/**
 * A JSON object of the folder, or undefined where there is no such file.
 * @throws SafetensorsError on a file of more than `most` bytes, or another content
 */
export async function readJson(
  folder: Folder,
  name: string,
  most: number,
): Promise<Record<string, unknown> | undefined> {
  const text = await readText(folder, name, most);
  if (text === undefined) return undefined;
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new SafetensorsError(`${folder.name}: ${name} is not JSON (${(cause as Error).message})`, undefined, {
      cause,
    });
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new SafetensorsError(`${folder.name}: ${name}: expected a JSON object`);
  }
  return value as Record<string, unknown>;
}

/** A text file of the folder, or undefined where there is no such file. */
export async function readText(folder: Folder, name: string, most: number): Promise<string | undefined> {
  const bytes = await readFile(folder, name, most);
  try {
    return bytes && new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch (cause) {
    throw new SafetensorsError(`${folder.name}: ${name} is not UTF-8`, undefined, { cause });
  }
}

/** All bytes of a small file of the folder, or undefined where there is no such file. */
export async function readFile(folder: Folder, name: string, most: number): Promise<Uint8Array | undefined> {
  const file = await folder.open(name);
  if (file === undefined) return undefined;
  try {
    if (file.size > most) {
      throw new SafetensorsError(`${folder.name}: ${name}: ${file.size} bytes, expected at most ${most}`);
    }
    const bytes = new Uint8Array(file.size);
    await file.read(0, bytes);
    return bytes;
  } finally {
    await file.close();
  }
}
