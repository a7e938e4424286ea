import { host } from '#host';
import type { Tensor } from '../backend.ts';

/** A piece of the linear memory. */
export interface WasmTensor extends Tensor {
  readonly at: number;
}

export interface LinearMemory {
  readonly memory: WebAssembly.Memory;
  /** Most bytes that can be allocated; the system may give less. */
  readonly limitBytes: number;
  /** Zeroed, 64-byte aligned. */
  alloc(bytes: number): WasmTensor;
  free(tensor: WasmTensor): void;
  write(tensor: WasmTensor, at: number, from: Uint8Array): void;
  read(tensor: WasmTensor, at: number, into: Uint8Array): undefined;
  /** A view that stays valid until the memory grows. */
  view(tensor: WasmTensor, at: number, bytes: number): Uint8Array;
  /** Bytes allocated now, and bytes of memory held. */
  used(): { allocated: number; held: number };
}

const PAGE = 65_536;
const MAX_PAGES: number = Math.floor(host.memoryBytes / PAGE);
/** What the modules are compiled for. */
const MODULE_PAGES = 65_536;
export const MAX_THREADS: number = 256;
/** Barrier, start signal and, from 4096 on, 1 KiB for each of MAX_THREADS lie below; see assembly/program.ts and lanes.ts. */
const FIRST = 5 * PAGE;
/** Most bytes that can be allocated. */
export const LIMIT_BYTES: number = MAX_PAGES * PAGE - FIRST;

/** Up to so many bytes are copied one by one: a step's picks are fewer, and a view for them would be garbage. */
const FEW_BYTES = 256;

const align = (bytes: number) => Math.ceil(bytes / 64) * 64;

/**
 * A WebAssembly memory with a first-fit allocator over its free pieces, in address order.
 * @param shared whether threads share it; a private one can be had in every page
 */
export function createMemory(shared: boolean): LinearMemory {
  // The maximum is the modules' own (asconfig.json), which a shared memory may not exceed.
  const memory = new WebAssembly.Memory({ initial: FIRST / PAGE, maximum: MODULE_PAGES, shared });
  const free: { at: number; bytes: number }[] = [];
  const live = new Map<number, number>();
  let bytes = new Uint8Array(memory.buffer);
  let top = FIRST;
  /** Bytes from here on were never used, so they are 0. */
  let fresh = FIRST;
  let allocated = 0;

  /** Grows so that addresses below `end` exist. */
  function reach(end: number): void {
    const pages = Math.ceil(end / PAGE) - memory.buffer.byteLength / PAGE;
    if (pages <= 0) return;
    try {
      if (memory.buffer.byteLength / PAGE + pages > MAX_PAGES) throw new RangeError();
      memory.grow(pages);
    } catch {
      throw new RangeError(
        `wasm memory: ${end - FIRST} bytes wanted in all, ${allocated} in use; the limit is ${MAX_PAGES * PAGE} bytes or what the system gives`,
      );
    }
    bytes = new Uint8Array(memory.buffer);
  }

  function check(tensor: WasmTensor, at: number, count: number): void {
    if (at < 0 || count < 0 || at + count > tensor.bytes) {
      throw new RangeError(`wasm memory: bytes ${at} … ${at + count} of a tensor of ${tensor.bytes}`);
    }
  }

  return {
    memory,
    alloc(wanted) {
      const size = align(Math.max(wanted, 1));
      const i = free.findIndex((piece) => piece.bytes >= size);
      let at = top;
      if (i >= 0) {
        const piece = free[i];
        at = piece.at;
        piece.at += size;
        piece.bytes -= size;
        if (piece.bytes === 0) free.splice(i, 1);
      } else {
        reach(top + size);
        top += size;
      }
      bytes.fill(0, at, Math.min(at + size, fresh));
      fresh = Math.max(fresh, at + size);
      allocated += size;
      live.set(at, size);
      return { at, bytes: wanted };
    },
    free(tensor) {
      const size = live.get(tensor.at);
      if (size === undefined) throw new Error(`wasm memory: free of ${tensor.at}, which is not allocated`);
      live.delete(tensor.at);
      allocated -= size;
      let i = free.findIndex((piece) => piece.at > tensor.at);
      if (i < 0) i = free.length;
      free.splice(i, 0, { at: tensor.at, bytes: size });
      // Join with the next and the previous piece.
      for (const j of [i, i - 1]) {
        if (j >= 0 && j + 1 < free.length && free[j].at + free[j].bytes === free[j + 1].at) {
          free[j].bytes += free[j + 1].bytes;
          free.splice(j + 1, 1);
        }
      }
      // So that what is there for a while, as a matrix before it is repacked, leaves no hole.
      const last = free.at(-1);
      if (last !== undefined && last.at + last.bytes === top) {
        top = last.at;
        free.pop();
      }
    },
    write(tensor, at, from) {
      check(tensor, at, from.length);
      bytes.set(from, tensor.at + at);
    },
    read(tensor, at, into) {
      check(tensor, at, into.length);
      const from = tensor.at + at;
      if (into.length > FEW_BYTES) into.set(bytes.subarray(from, from + into.length));
      else for (let i = 0; i < into.length; i++) into[i] = bytes[from + i];
    },
    view(tensor, at, count) {
      check(tensor, at, count);
      return bytes.subarray(tensor.at + at, tensor.at + at + count);
    },
    limitBytes: LIMIT_BYTES,
    used: () => ({ allocated, held: memory.buffer.byteLength }),
  };
}
