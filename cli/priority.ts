/** Who has the CPU first where there is not enough of it: the database's clients, unless they wait for us. */
import { readdir } from 'node:fs/promises';
import { getPriority, setPriority } from 'node:os';

/** About a tenth of the share that one of mysqld's threads has where both want the same CPU. */
export const yieldingNice = 10;

/**
 * Lowers the priority of this process, its threads and whatever it starts. One that somebody has set (`Nice=` of a unit, nice(1)) stays.
 * On Linux a priority is each thread's own, and new threads inherit it (setpriority(2), "C library/kernel differences").
 */
export async function yieldCpu(): Promise<void> {
  if (getPriority() !== 0) return;
  for (const thread of await readdir('/proc/self/task').catch(() => [])) {
    try {
      setPriority(Number(thread), yieldingNice);
    } catch {
      // It has ended, or a sandbox forbids it: then it goes on as before.
    }
  }
}
