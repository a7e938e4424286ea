import type { DownloadProgress, LoadProgress } from '../index.ts';
import { bytes, remaining } from './format.ts';
import { say, showStatus } from './terminal.ts';

/** What is over sooner shows no bar. */
const BAR_AFTER_MS = 200;
/** Where nobody watches, what is over sooner says nothing, and the rest speaks up this often. */
const LINE_AFTER_MS = 2000;
const LINE_EVERY_MS = 5000;
const MAX_BAR_WIDTH = 24;

export interface ProgressBar {
  /** Can be handed on as onProgress. */
  show(progress: LoadProgress | DownloadProgress): void;
  /** Milliseconds since the download, or the loading after it, began. */
  elapsed(): number;
  /** Takes the bar away. */
  end(): void;
  /** The same after Ctrl-C, and says what is left of a download. */
  interrupted(): void;
}

/** Shows how far a model is downloaded and loaded: a bar where somebody watches, a line now and then elsewhere. */
export function progressBar(name: string): ProgressBar {
  const watched = process.stderr.isTTY === true;
  let progress: LoadProgress | DownloadProgress | undefined;
  let started = performance.now();
  let nextLine = LINE_AFTER_MS;

  function draw(): void {
    const ms = performance.now() - started;
    if (ms < BAR_AFTER_MS) return;
    const verb = progress?.phase === 'download' ? 'downloading' : 'loading';
    if (watched) showStatus(progress === undefined ? `${verb} ${name}` : bar(`${verb} ${name}`, progress, ms));
    else if (ms >= nextLine) {
      say(progress === undefined ? `${verb} ${name}` : `${verb} ${name}: ${line(progress, ms)}`);
      nextLine = ms + LINE_EVERY_MS;
    }
  }

  const timer = setInterval(draw, 100);
  function end(): void {
    clearInterval(timer);
    showStatus('');
  }
  return {
    show(next) {
      if (next.phase !== progress?.phase) {
        started = performance.now();
        nextLine = LINE_AFTER_MS;
      }
      progress = next;
    },
    elapsed: () => performance.now() - started,
    end,
    interrupted() {
      end();
      if (progress?.phase !== 'download') return;
      const of = progress.totalBytes === 0 ? '' : ` of ${bytes(progress.totalBytes)}`;
      say(`stopped at ${bytes(progress.loadedBytes)}${of}; the next download goes on from there`);
    },
  };
}

/** Bytes a second, and how many seconds are left. */
function paceOf(progress: LoadProgress | DownloadProgress, ms: number): { speed: number; left: number | undefined } {
  if (progress.phase === 'download') return { speed: progress.bytesPerSecond, left: progress.etaSeconds };
  const speed = (1000 * progress.loadedBytes) / ms;
  return { speed, left: speed === 0 ? undefined : (progress.totalBytes - progress.loadedBytes) / speed };
}

function line(progress: LoadProgress | DownloadProgress, ms: number): string {
  const { loadedBytes, totalBytes } = progress;
  const { speed, left } = paceOf(progress, ms);
  const done = totalBytes === 0 ? bytes(loadedBytes) : `${percent(progress)} % of ${bytes(totalBytes)}`;
  return `${done}, ${bytes(speed)}/s${left === undefined ? '' : `, ${remaining(left)} left`}`;
}

/** A line as wide as the terminal at most. */
function bar(what: string, progress: LoadProgress | DownloadProgress, ms: number): string {
  const { loadedBytes, totalBytes } = progress;
  if (totalBytes === 0) return `${what} ${line(progress, ms)}`;
  const { speed, left } = paceOf(progress, ms);
  const time = left === undefined ? '' : `, ${remaining(left)} left`;
  const figures = `${percent(progress)} % of ${bytes(totalBytes)}, ${bytes(speed)}/s${time}`;
  const room = (process.stderr.columns || 80) - `${what}  ${figures} `.length;
  const width = Math.max(4, Math.min(MAX_BAR_WIDTH, room));
  const filled = Math.floor((width * loadedBytes) / totalBytes);
  return `${what} ${'█'.repeat(filled)}${'░'.repeat(width - filled)} ${figures}`;
}

const percent = ({ loadedBytes, totalBytes }: { readonly loadedBytes: number; readonly totalBytes: number }) =>
  Math.floor((100 * loadedBytes) / totalBytes);
