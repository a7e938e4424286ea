import type { Stores } from './store.ts';

// workerd, where nothing outlives a request.

export const stores: Stores = {
  open: async () => undefined,
  exists: async () => false,
  environment: () => undefined,
};
