/** Stands in for the daemon in service.test.ts: says what it is told to, to the real systemd, through the real notifier. */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { serviceNotifier } from '../../agent/service/notify.ts';

const [behaviour = ''] = process.argv.slice(2);
const notifier = serviceNotifier({
  isHealthy: () => behaviour !== 'unhealthy',
  warn: (sentence) => process.stderr.write(`${sentence}\n`),
});

function attempt(what: string, action: () => void): string {
  try {
    action();
    return `${what}: yes`;
  } catch (error) {
    return `${what}: ${(error as NodeJS.ErrnoException).code}`;
  }
}

process.on('SIGTERM', () => {
  void notifier.stopping('draining').then(() => {
    notifier.close();
    process.exit(0);
  });
});

if (behaviour === 'misconfigured') process.exit(2);
const credential = readFileSync(join(process.env.CREDENTIALS_DIRECTORY ?? '/none', 'mysql.password'), 'utf8');
const findings = [
  `credential of ${credential.trim().length} characters`,
  attempt('writes /var/lib/qazyna', () => writeFileSync('/var/lib/qazyna/probe', '')),
  attempt('writes /srv/qazyna', () => writeFileSync('/srv/qazyna/probe', '')),
  attempt('writes /etc', () => writeFileSync('/etc/probe', '')),
  attempt('reads the secret itself', () => readFileSync('/etc/qazyna/mysql.password')),
  `uid ${process.getuid?.()}`,
];
process.stdout.write(`${findings.join('\n')}\n`);
await sleep(300);
await notifier.ready('first');
for (let n = 0; n < 50; n++) notifier.status(`capturing ${n}`);
if (behaviour === 'stuck') {
  await sleep(1500);
  // An event loop that no longer turns.
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);
}
setInterval(() => {}, 1000);
