import type { BackendLostError } from 'ternlm/backend';
import { lostError } from './device.ts';

/** What went wrong on a device, which it tells late and in several ways. */
export interface DeviceErrors {
  /** Runs `make`; what the device finds wrong with it is told by the next `check`. */
  watch<X>(filter: GPUErrorFilter, make: () => X, describe: (message: string) => Error): X;
  /** Waits for what `watch` began; rejects with the first thing that went wrong since the last call. */
  check(): Promise<void>;
  /** The error that tells of the device's end, once it has come. */
  readonly lost: BackendLostError | undefined;
  readonly whenLost: Promise<BackendLostError>;
  /** Listens no more: a device of the caller's own may have other users. */
  dispose(): void;
}

export function deviceErrors(device: GPUDevice): DeviceErrors {
  const pending = new Set<Promise<void>>();
  let first: Error | undefined;
  /** Only a consequence, where there is a first. */
  let uncaptured: Error | undefined;
  let lost: BackendLostError | undefined;
  const onError = (event: GPUUncapturedErrorEvent) => {
    // Else the platform writes it to the console as well.
    event.preventDefault();
    uncaptured ??= new Error(`webgpu: ${event.error.message}`);
  };
  device.addEventListener('uncapturederror', onError);
  const whenLost = device.lost.then((info) => {
    lost = lostError(info);
    return lost;
  });
  return {
    watch(filter, make, describe) {
      device.pushErrorScope(filter);
      try {
        return make();
      } finally {
        const told = device.popErrorScope().then(
          (error) => {
            if (error !== null) first ??= describe(error.message);
          },
          () => {}, // the device was lost
        );
        pending.add(told);
        told.finally(() => pending.delete(told));
      }
    },
    async check() {
      if (pending.size > 0) await Promise.all(pending);
      const error = lost ?? first ?? uncaptured;
      first = undefined;
      uncaptured = undefined;
      if (error !== undefined) throw error;
    },
    get lost() {
      return lost;
    },
    whenLost,
    dispose: () => device.removeEventListener('uncapturederror', onError),
  };
}
