/** How far a download is. */
export interface DownloadProgress {
  readonly phase: 'download';
  readonly loadedBytes: number;
  /** 0 where the server does not tell. */
  readonly totalBytes: number;
  /** Over the last seconds. Bytes that an earlier download left are loaded, but were not fast. */
  readonly bytesPerSecond: number;
  /** Absent where the size or the speed is not known yet. */
  readonly etaSeconds?: number;
}

/** A change of speed is seen in full after some of these: shorter ones make the time left jump (not tuned). */
const SMOOTH_MS = 3000;
/** Chunks come quicker than anybody looks. */
const REPORT_MS = 100;

/** Reports progress at most ten times a second, and once more at the end. */
export function progressMeter(
  report: (progress: DownloadProgress) => void,
  fromBytes: number,
  now: () => number = () => performance.now(),
): (loadedBytes: number, totalBytes: number | undefined, isEnd?: boolean) => void {
  const started = now();
  let seen = { at: started, bytes: fromBytes };
  /** Exponential mean of the speed, bytes a millisecond, as if it had been 0 before the start. */
  let mean = 0;
  return (loadedBytes, totalBytes, isEnd = false) => {
    const at = now();
    const passed = at - seen.at;
    // Less than was seen: the download began anew.
    if (loadedBytes < seen.bytes) seen = { at, bytes: loadedBytes };
    else if (passed < REPORT_MS && !isEnd && loadedBytes > fromBytes) return;
    else if (passed > 0) {
      const old = Math.exp(-passed / SMOOTH_MS);
      mean = mean * old + ((loadedBytes - seen.bytes) / passed) * (1 - old);
      seen = { at, bytes: loadedBytes };
    }
    // Without the share of the time before the start.
    const speed = at === started ? 0 : (1000 * mean) / (1 - Math.exp((started - at) / SMOOTH_MS));
    const left = totalBytes === undefined ? undefined : totalBytes - loadedBytes;
    report({
      phase: 'download',
      loadedBytes,
      totalBytes: totalBytes ?? 0,
      bytesPerSecond: speed,
      ...(left !== undefined && speed > 0 && { etaSeconds: left / speed }),
    });
  };
}
