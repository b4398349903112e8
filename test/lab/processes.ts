/** Which process is meant: a pid alone may belong to a stranger by now, a pid with its start time cannot. */
import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';

export interface ProcessIdentity {
  pid: number;
  /** Field 22 of proc_pid_stat(5): clock ticks after boot. */
  startTicks: number;
  bootId: string;
}

const pollMs = 20;

/** VmHWM of proc_pid_status(5). Not getrusage(2): that counts what the parent had when it forked. */
export function peakRssBytes(pid: number = process.pid): number {
  return Number(/^VmHWM:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]) * 1024;
}

/** Null when there is no such process, or it has ended and only its parent has not looked yet. */
export function identify(pid: number): ProcessIdentity | null {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    // The second field is the program's name in parentheses and may hold anything, so the fields are counted behind it.
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    if (fields[0] === 'Z' || fields[0] === 'X') return null;
    return {
      pid,
      startTicks: Number(fields[19]),
      bootId: readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim(),
    };
  } catch {
    return null;
  }
}

export function isRunning(wanted: ProcessIdentity): boolean {
  const found = identify(wanted.pid);
  return found !== null && found.startTicks === wanted.startTicks && found.bootId === wanted.bootId;
}

/** SIGTERM, then SIGKILL after the deadline; nothing when that very process no longer runs. Says how it went. */
export async function endProcess(wanted: ProcessIdentity, deadlineMs: number): Promise<'gone' | 'ended' | 'killed'> {
  if (!isRunning(wanted)) return 'gone';
  process.kill(wanted.pid, 'SIGTERM');
  if (await untilEnded(wanted, deadlineMs)) return 'ended';
  if (isRunning(wanted)) process.kill(wanted.pid, 'SIGKILL');
  await untilEnded(wanted, deadlineMs);
  return 'killed';
}

async function untilEnded(wanted: ProcessIdentity, deadlineMs: number): Promise<boolean> {
  const deadline = performance.now() + deadlineMs;
  while (isRunning(wanted)) {
    if (performance.now() > deadline) return false;
    await sleep(pollMs);
  }
  return true;
}
