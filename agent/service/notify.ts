/**
 * What the service manager is told: ready, status, watchdog, stopping (sd_notify(3)). Node cannot send on a Unix datagram
 * socket, so systemd-notify(1) does it for us: the unit needs NotifyAccess=all. Without NOTIFY_SOCKET nothing happens.
 */
import { spawn } from 'node:child_process';
import type { Logger } from '../../core/logging/logger.ts';

export interface ServiceNotifier {
  ready(): void;
  status(text: string): void;
  stopping(): void;
  /** No more watchdog pings. */
  close(): void;
}

export function serviceNotifier(logger: Logger, environment: NodeJS.ProcessEnv = process.env): ServiceNotifier {
  const isService = Boolean(environment.NOTIFY_SOCKET);
  const tell = (...assignments: string[]) => {
    if (!isService) return;
    const child = spawn('systemd-notify', [`--pid=${process.pid}`, ...assignments], { stdio: 'ignore' });
    child.on('error', (error) => logger.warn(`systemd was not told ${assignments.join(' ')}: ${error.message}`));
  };
  // WATCHDOG_USEC is the unit's WatchdogSec; half of it leaves room for one lost ping (sd_watchdog_enabled(3)).
  const everyMs = Number(environment.WATCHDOG_USEC ?? 0) / 2000;
  const timer = isService && everyMs > 0 ? setInterval(() => tell('WATCHDOG=1'), everyMs) : null;
  timer?.unref();
  return {
    ready: () => tell('--ready'),
    status: (text) => tell(`--status=${text}`),
    stopping: () => tell('--stopping'),
    close: () => {
      if (timer) clearInterval(timer);
    },
  };
}
