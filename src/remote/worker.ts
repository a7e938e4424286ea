// The engine's worker, bundled with all that it needs into worker_source.js.
import { type Port, serve } from './server.ts';

// The type of its scope is not in lib "dom", which the rest of src/ uses.
serve(globalThis as unknown as Port);
