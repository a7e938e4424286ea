// Waiting between threads that run the same program.
//
//   barrier   +0 arrived   +4 generation   +8 sleepers on the generation
//   signal                  +0 value        +4 sleepers on the value
//
// A barrier costs 0.3 us while spinning (`npm run bench -- barrier`), a sleep and its wake-up far more, and a pure spin loses
// a whole scheduler slice when there are fewer free cores than threads: so spin a bounded while, then wait. A sleeper counts
// itself before it waits, and wait compares the value, so a publisher that sees no sleeper cannot lose a wake-up.

/**
 * 10 us on Node 24, 20 on Node 20 (2.5 GHz Xeon, November 2026, `npm run bench -- barrier`): some thirty barriers long. Not tuned
 * against other budgets.
 */
const SPINS: i32 = 20000;

/** Returns when `count` threads have called it. */
export function barrier(at: usize, count: i32): void {
  if (count == 1) return;
  const generation = atomic.load<i32>(at, 4);
  if (atomic.add<i32>(at, 1) == count - 1) {
    atomic.store<i32>(at, 0);
    signal(at + 4, generation + 1);
    return;
  }
  waitWhile(at + 4, generation);
}

/** Stores a value and wakes whoever sleeps on it. */
export function signal(at: usize, value: i32): void {
  atomic.store<i32>(at, value);
  if (atomic.load<i32>(at, 4) > 0) atomic.notify(at, -1);
}

/** Returns the value at `at` once it is another than `old`. */
export function waitWhile(at: usize, old: i32): i32 {
  let spins = SPINS;
  while (true) {
    const value = atomic.load<i32>(at);
    if (value != old) return value;
    if (spins > 0) {
      spins--;
      continue;
    }
    atomic.add<i32>(at, 1, 4);
    atomic.wait<i32>(at, old, -1);
    atomic.sub<i32>(at, 1, 4);
  }
}
