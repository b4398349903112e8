/** `qazyna history grafana [UID]`: who changed what in a Grafana, and when; with `--diff` also how. */
import type { Command } from 'commander';
import { exitCodes } from '../core/errors/error.ts';
import { ExactNumber, type Json } from '../core/grafana/json.ts';
import { typeNames } from '../core/grafana/objects.ts';
import { ArchiveHistory } from '../core/history/open.ts';
import { formatInstant } from '../core/progress/format.ts';
import { clean } from '../core/progress/table.ts';
import type { GrafanaChange } from '../restore-tool/grafana/history.ts';
import { type ArchiveOptions, archiveOptions, chooseService, openOneArchive } from './archives.ts';
import { timeOf } from './time-option.ts';
import { addVerb, type Context, type Frame } from './verb.ts';

interface Options extends ArchiveOptions {
  service?: string;
  since?: string;
  until?: string;
  diff?: boolean;
}

export function addHistoryGrafana(history: Command, frame: Frame): void {
  addVerb<Options>(history, frame, {
    usage: 'grafana [uid]',
    summary: 'list the changes of a Grafana, or the versions of one of its objects',
    about:
      'First the instant when the agent saw the change, from which on a restore holds it; then what Grafana tells: when it was saved, by whom, and the message. A dashboard’s versions that were replaced before the agent looked are listed, too; --version of `restore grafana` brings any of them back. Where retention has deleted how it began, what was there then is listed as kept. With --diff also what changed against the version before. With --json one object a line.',
    examples: [
      ['history grafana', 'What was changed, lately and ever?'],
      ['history grafana cIBgcSjkk --diff', 'How one dashboard came to be what it is'],
    ],
    options: (command) => {
      command.option('--diff', 'show what changed');
      command.option('--since <instant>', 'from this time on (2026-11-23T10:15:00Z, 2h-ago)');
      command.option('--until <instant>', 'up to this time');
      command.option('--service <name>', 'which Grafana, where several are protected');
      archiveOptions(command);
    },
    run,
  });
}

async function run(context: Context, options: Options, uid?: string): Promise<number> {
  const archive = await openOneArchive(context, options);
  const service = await chooseService(archive, 'grafana', options.service);
  const { signal, logger } = context;
  const opened = await ArchiveHistory.open(archive.store, service.chainName, { signal, logger });
  const { grafanaHistory } = await import('../restore-tool/grafana/history.ts');
  const { differenceLine } = await import('../restore-tool/grafana/diff.ts');
  let changes = 0;
  const listing = grafanaHistory({
    history: opened,
    uid: uid ?? null,
    withDifferences: options.diff === true,
    ...(options.since === undefined ? {} : { sinceMicros: timeOf('--since', options.since) }),
    ...(options.until === undefined ? {} : { untilMicros: timeOf('--until', options.until) }),
    signal,
  });
  for await (const change of listing) {
    changes += 1;
    const below = (change.differences ?? []).map((one) => `    ${clean(differenceLine(one))}`);
    await context.out.row(jsonLine(change), [textLine(change), ...below].join('\n'));
  }
  if (changes === 0) context.out.say(`No change${uid === undefined ? '' : ` of ${uid}`} was found.`);
  return exitCodes.done;
}

/** First the instant that brings it back: a restore to just when it was saved would not hold it yet. */
function textLine(change: GrafanaChange): string {
  const { type, uid, title, version, savedMicros, author, message, isPast, provenance } = change;
  const when = formatInstant(change.seenMicros);
  const notes = [isPast ? 'seen in Grafana’s list' : '', provenance === 'file' ? 'provisioned' : ''].filter(Boolean);
  const parts = [
    when,
    change.change.padEnd(7),
    `${typeNames[type]} ${title} (${uid})`,
    version === null ? '' : `version ${version}`,
    savedMicros === 0 ? '' : `saved ${formatInstant(savedMicros)}`,
    author === '' ? '' : `by ${author}`,
    message === '' ? '' : `“${message}”`,
    notes.length === 0 ? '' : `[${notes.join(', ')}]`,
  ];
  return clean(parts.filter(Boolean).join('  '));
}

function jsonLine({ differences, ...change }: GrafanaChange): object {
  const instant = formatInstant(change.seenMicros);
  const saved = change.savedMicros === 0 ? '' : formatInstant(change.savedMicros);
  const shown = differences?.map(({ path, before, after }) => ({ path, before: plain(before), after: plain(after) }));
  return { ...change, instant, saved, ...(shown === undefined ? {} : { differences: shown }) };
}

/** JSON for others has no numbers that they would damage: those stand as text. */
function plain(json: Json | undefined): unknown {
  if (json instanceof ExactNumber) return json.text;
  if (Array.isArray(json)) return json.map(plain);
  if (typeof json !== 'object' || json === null) return json;
  return Object.fromEntries(Object.entries(json).map(([key, value]) => [key, plain(value)]));
}
