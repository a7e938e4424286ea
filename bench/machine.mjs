import { availableParallelism, cpus, loadavg } from 'node:os';

/** Where and how busy: every benchmark prints it, since both cores of a shared machine are rarely its own. */
export function machine() {
  const [one] = loadavg();
  return `${cpus()[0].model}, ${availableParallelism()} cores, Node ${process.versions.node} (V8 ${process.versions.v8}), load ${one.toFixed(1)}`;
}

/** Median of numbers. */
export function median(numbers) {
  const sorted = [...numbers].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}
