import { type Backend, BackendLostError, type Tensor } from '../dist/backend/backend.js';

/** What a `repeating` backend does when. */
export interface Repeating {
  readonly maxRepeats?: number;
  /** Before each start, the first is 1. */
  onStart?(start: number): void;
  /** The start from which on the device is gone: it and all later ones fail. */
  readonly lostFrom?: number;
  /** Something else than the engine uses it at the same time. */
  readonly shared?: boolean;
  /** A lost device says so at once, or when what was started should be done. */
  readonly tells?: 'at once' | 'when done';
}

export interface Log {
  /** Tokens of each start. */
  readonly repeats: number[];
  /** Most starts that were under way. */
  mostUnderWay: number;
  disposed: number;
}

/**
 * A backend that repeats runs, made of one that does not: starts are queued, and each runs its program so often, copying results
 * after each. What the engine writes while a start is under way would come too late or too early, and is refused.
 */
export function repeating(
  inner: Backend,
  {
    maxRepeats = 16,
    onStart,
    lostFrom = Number.POSITIVE_INFINITY,
    shared = false,
    tells = 'when done',
  }: Repeating = {},
): { backend: Backend; log: Log } {
  const log: Log = { repeats: [], mostUnderWay: 0, disposed: 0 };
  let underWay = 0;
  let queue = Promise.resolve();
  const isLost = () => log.disposed > 0 || log.repeats.length >= lostFrom;
  const lost = () => new BackendLostError('the device is gone');
  const backend: Backend = {
    ...inner,
    name: 'repeating',
    maxRepeats,
    write(tensor: Tensor, at, bytes) {
      if (underWay > 0 && !shared)
        throw new Error(`write of ${bytes.length} bytes while ${underWay} starts are under way`);
      inner.write(tensor, at, bytes);
    },
    async run(program) {
      if (isLost()) throw lost();
      await inner.run(program);
    },
    start(program, repeats, results, done) {
      log.repeats.push(repeats);
      onStart?.(log.repeats.length);
      if (isLost() && tells === 'at once') throw lost();
      underWay++;
      log.mostUnderWay = Math.max(log.mostUnderWay, underWay);
      const run = async () => {
        for (let i = 0; i < repeats; i++) {
          if (isLost()) throw lost();
          await inner.run(program);
          if (results === undefined) continue;
          const { from, bytes, into } = results;
          await inner.read(from, 0, into.subarray(i * bytes, (i + 1) * bytes));
        }
      };
      queue = queue.then(async () => {
        const error = await run().then(
          () => undefined,
          (cause: Error) => cause,
        );
        underWay--;
        done(error);
      });
    },
    async dispose() {
      log.disposed++;
      await inner.dispose();
    },
  };
  return { backend, log };
}
