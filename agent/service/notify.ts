/**
 * Telling systemd how the service is: ready, its status line, the watchdog, stopping (sd_notify(3), systemd.service(5)
 * "Type=notify"). Node has no Unix datagram sockets, so systemd's own `systemd-notify` sends each message; the unit
 * therefore says NotifyAccess=all. Without $NOTIFY_SOCKET every call does nothing.
 *
 * The unit is ordered Before=mysql.service: say `ready` as soon as the agent works, not when MySQL answers, else the
 * two wait for each other.
 */
import { execFile } from 'node:child_process';

const program = 'systemd-notify';
/** systemd-notify waits until systemd has read the message, so that it is not taken for a stranger's. */
const sendTimeoutMs = 5_000;
const statusMaxLength = 200;
/** systemd.service(5): a ping at least every half of WatchdogSec; a third leaves room for a slow moment. */
const pingsPerWatchdog = 3;

export interface ServiceNotifier {
  /** Start-up is finished. `text` becomes the status line. */
  ready(text?: string): Promise<void>;
  /** One line for `systemctl status`; repeated texts are not sent again. */
  status(text: string): void;
  /** SIGTERM was taken: systemd knows that what follows is the shutdown. The watchdog goes on until `close`. */
  stopping(text?: string): Promise<void>;
  /** Ends the watchdog's pings. */
  close(): void;
}

export interface NotifierOptions {
  environment?: NodeJS.ProcessEnv;
  /** Asked before each ping: false leaves it out, and systemd restarts the service when that lasts. */
  isHealthy?: () => boolean;
  /** Heard once when messages do not get through. */
  warn?: (sentence: string) => unknown;
}

/** Starts the watchdog's pings when the unit has WatchdogSec=. */
export function serviceNotifier(options: NotifierOptions = {}): ServiceNotifier {
  const environment = options.environment ?? process.env;
  if (!environment.NOTIFY_SOCKET) return silentNotifier;
  return new SystemdNotifier(environment, options.isHealthy ?? (() => true), (sentence) => options.warn?.(sentence));
}

const silentNotifier: ServiceNotifier = {
  ready: () => Promise.resolve(),
  status: () => {},
  stopping: () => Promise.resolve(),
  close: () => {},
};

class SystemdNotifier implements ServiceNotifier {
  readonly #environment: NodeJS.ProcessEnv;
  readonly #warn: (sentence: string) => void;
  readonly #watchdog: NodeJS.Timeout | undefined;
  /** One message at a time, in order. */
  #last: Promise<void> = Promise.resolve();
  #status = '';
  #waitingStatus: string | null = null;
  #isPinging = false;
  #hasWarned = false;

  constructor(environment: NodeJS.ProcessEnv, isHealthy: () => boolean, warn: (sentence: string) => void) {
    this.#environment = environment;
    this.#warn = warn;
    const everyMs = pingEveryMs(environment);
    if (everyMs === null) return;
    this.#watchdog = setInterval(() => {
      if (this.#isPinging || !isHealthy()) return;
      this.#isPinging = true;
      void this.#send('WATCHDOG=1').finally(() => {
        this.#isPinging = false;
      });
    }, everyMs);
    this.#watchdog.unref();
  }

  ready(text?: string): Promise<void> {
    return this.#send('READY=1', ...this.#withStatus(text));
  }

  status(text: string): void {
    const isWaiting = this.#waitingStatus !== null;
    this.#waitingStatus = text;
    // Only the newest of many changes is worth a process.
    if (!isWaiting) void this.#last.then(() => this.#sendStatus());
  }

  stopping(text?: string): Promise<void> {
    return this.#send('STOPPING=1', ...this.#withStatus(text));
  }

  close(): void {
    clearInterval(this.#watchdog);
  }

  async #sendStatus(): Promise<void> {
    const [message] = this.#withStatus(this.#waitingStatus ?? undefined);
    this.#waitingStatus = null;
    if (message !== undefined) await this.#send(message);
  }

  #withStatus(text: string | undefined): string[] {
    const line = text?.replace(/\s+/g, ' ').slice(0, statusMaxLength);
    if (line === undefined || line === this.#status) return [];
    this.#status = line;
    return [`STATUS=${line}`];
  }

  #send(...messages: string[]): Promise<void> {
    this.#last = this.#last.then(() => this.#run(messages));
    return this.#last;
  }

  #run(messages: string[]): Promise<void> {
    return new Promise((resolve) => {
      execFile(program, messages, { env: this.#environment, timeout: sendTimeoutMs }, (error) => {
        if (error && !this.#hasWarned) {
          this.#hasWarned = true;
          this.#warn(`${program} could not tell systemd ${messages[0]}: ${error.message}`);
        }
        resolve();
      });
    });
  }
}

/** Null without a watchdog, or when it is meant for another process than us or the launcher that started us. */
function pingEveryMs(environment: NodeJS.ProcessEnv): number | null {
  const micros = Number(environment.WATCHDOG_USEC);
  if (!Number.isSafeInteger(micros) || micros <= 0) return null;
  const meant = environment.WATCHDOG_PID ? Number(environment.WATCHDOG_PID) : process.pid;
  if (meant !== process.pid && meant !== process.ppid) return null;
  return Math.max(100, micros / 1000 / pingsPerWatchdog);
}
