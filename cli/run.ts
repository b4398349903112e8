/** `qazyna run` and `qazyna agent`: the daemons that capture. */
import type { Command } from 'commander';
import { runDaemon } from './daemon.ts';
import { addVerb, type Context, type Frame } from './verb.ts';

export function addDaemons(program: Command, frame: Frame): void {
  addVerb(program, frame, {
    usage: 'run',
    summary: 'protect the source: capture, ship to every archive, take snapshots, all in one process',
    about: 'What the systemd unit starts. SIGTERM ends it within 5 s; what was captured by then is in the log.',
    examples: [['run --config /etc/qazyna/config.yaml', 'In the foreground, logging on stderr']],
    daemon: true,
    run: (context) => capture(context, () => true),
  });
  addVerb(program, frame, {
    usage: 'agent',
    summary: 'capture and take snapshots; with a local log also ship to every archive, as `run` does',
    about: 'With a Kafka log the archives are left to `qazyna shipper`, here or on other hosts, and only watched.',
    examples: [['agent', 'With the configuration at its usual place']],
    daemon: true,
    // Only its holder can read a local log.
    run: (context) => capture(context, (kind) => kind === 'local'),
  });
}

async function capture(context: Context, ships: (log: 'local' | 'kafka') => boolean): Promise<number> {
  const { archives, http, log } = await context.config();
  return await runDaemon(context, { role: 'agent', captures: true, ships: ships(log.kind), archives, listen: http });
}
