// Waiting between threads that run the same program.
//
//   barrier   +0 arrived   +4 generation   +8 sleepers on the generation
//   signal                  +0 value        +4 sleepers on the value
//
// A barrier costs 0.3 us while spinning (`npm run bench -- barrier`), a sleep and its wake-up far more, and a pure spin loses
// a whole scheduler slice when there are fewer free cores than threads: so spin a bounded while, then wait. A sleeper counts
// itself before it waits, and wait compares the value, so a publisher that sees no sleeper cannot lose a wake-up.
//
// How long depends on where the threads are, which only the waiting shows. On cores of their own a spin should outlast the
// other's work and the wake-up of a thread that slept, or both sleep in turn at every barrier. On one core, to which a busy
// machine confines them, each spin keeps from running whom it waits for. So every spin in vain makes the next one shorter, every
// other one longer, and now and then the longest is tried again (bench/LOG.md).

/**
 * About 0.5 ms (Xeon model 167, November 2026, `npm run bench -- barrier`): threads of a 2B model come up to 0.3 ms apart
 * (bench/LOG.md, how long a barrier spins).
 */
const SPINS: i32 = 1500000;
/** The threads that come at the same time still meet. Neither this nor STEP is tuned. */
const FEW_SPINS: i32 = 500;
/** By so much a spin grows and shrinks. */
const STEP: i32 = 4;
/** Waits between two tries of the longest spin, where it is in vain; `npm run bench -- fairness` shows too few. */
const RETRY: i32 = 1024;

/** 35 us, at the start of a run: the host, which has work to do first, needs the core. Not tuned. */
const START_SPINS: i32 = 100000;

/** Of this thread, as every thread has its own instance: spins of its next wait at a barrier, and waits so far. */
let spins: i32 = SPINS;
let waits: i32 = 0;

/** Returns when `count` threads have called it. */
export function barrier(at: usize, count: i32): void {
  if (count == 1) return;
  const generation = atomic.load<i32>(at, 4);
  if (atomic.add<i32>(at, 1) == count - 1) {
    atomic.store<i32>(at, 0);
    signal(at + 4, generation + 1);
    return;
  }
  if (++waits % RETRY == 0) spins = SPINS;
  const came = spinWhile(at + 4, generation, spins);
  spins = came ? min(spins * STEP, SPINS) : max(spins / STEP, FEW_SPINS);
  if (!came) sleepWhile(at + 4, generation);
}

/** Stores a value and wakes whoever sleeps on it. */
export function signal(at: usize, value: i32): void {
  atomic.store<i32>(at, value);
  if (atomic.load<i32>(at, 4) > 0) atomic.notify(at, -1);
}

/** Returns the value at `at` once it is another than `old`. */
export function waitWhile(at: usize, old: i32): i32 {
  if (!spinWhile(at, old, START_SPINS)) sleepWhile(at, old);
  return atomic.load<i32>(at);
}

/** Whether the value at `at` became another than `old` within so many looks. */
function spinWhile(at: usize, old: i32, looks: i32): bool {
  while (atomic.load<i32>(at) == old) {
    if (looks-- == 0) return false;
  }
  return true;
}

/** Returns when the value at `at` is another than `old`. */
function sleepWhile(at: usize, old: i32): void {
  while (atomic.load<i32>(at) == old) {
    atomic.add<i32>(at, 1, 4);
    atomic.wait<i32>(at, old, -1);
    atomic.sub<i32>(at, 1, 4);
  }
}
