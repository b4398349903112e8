/** `qazyna run` and `qazyna agent`: the daemons. */
import type { Command } from 'commander';
import { runDaemon } from './daemon.ts';
import { addVerb, type Frame } from './verb.ts';

export function addDaemons(program: Command, frame: Frame): void {
  addVerb(program, frame, {
    usage: 'run',
    summary: 'protect the source: capture, ship to every archive, take snapshots, all in one process',
    about: 'What the systemd unit starts. SIGTERM ends it within 5 s; what was captured by then is in the log.',
    examples: [['run --config /etc/qazyna/config.yaml', 'In the foreground, logging on stderr']],
    daemon: true,
    run: runDaemon,
  });
  addVerb(program, frame, {
    usage: 'agent',
    summary: 'capture and take snapshots; with a local log also ship to every archive, as `run` does',
    examples: [['agent', 'With the configuration at its usual place']],
    daemon: true,
    run: runDaemon,
  });
}
