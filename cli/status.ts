/** `qazyna status`: asks the running agent; without one it reads the archives itself. */
import type { Command } from 'commander';
import { report } from '../agent/http/judge.ts';
import {
  type ArchiveStatus,
  type ArchiveUpkeep,
  ageMs,
  lagMs,
  type ServiceStatus,
  type StatusReport,
  type StatusSnapshot,
  seenWithinMs,
} from '../agent/http/status.ts';
import { serviceChain } from '../core/archive/layout.ts';
import type { Config } from '../core/config/config.ts';
import { type ServiceId, servicesOf } from '../core/config/services.ts';
import { exitCodes, QazynaError } from '../core/errors/error.ts';
import { ArchiveHistory } from '../core/history/open.ts';
import { formatBytes, formatCount, formatDuration, formatInstant } from '../core/progress/format.ts';
import { clean, formatTable } from '../core/progress/table.ts';
import { listCompleteSnapshots } from '../core/snapshot/manifest.ts';
import { restorableSince } from './archive-worker.ts';
import {
  type ArchiveOptions,
  archiveOptions,
  type NamedArchive,
  type OpenedNamedArchive,
  openEachArchive,
  servicesIn,
} from './archives.ts';
import { readUpkeep } from './upkeep-records.ts';
import { addVerb, type Context, type Frame } from './verb.ts';
import { readVersion } from './version.ts';

const agentAnswersWithinMs = 5000;
const statusMaxBytes = 1024 * 1024;

export function addStatus(program: Command, frame: Frame): void {
  addVerb<ArchiveOptions>(program, frame, {
    usage: 'status',
    summary: 'is all well, and what would be lost if this host vanished now?',
    about:
      'Exit code 5 when something needs attention. Asks the running agent at http.listen; without one it reads the archives.',
    examples: [
      ['status', 'Is all well?'],
      ['status --json', 'The same for a script'],
      ['status --from file:///srv/qazyna', 'How far does this archive go?'],
    ],
    options: archiveOptions,
    run: status,
  });
}

async function status(context: Context, options: ArchiveOptions): Promise<number> {
  const whole =
    (options.from === undefined ? await askAgent(context) : null) ?? report(await readArchives(context, options));
  context.out.result(whole, lines(whole, context.out.width));
  return whole.attention.length === 0 ? exitCodes.done : exitCodes.attention;
}

/** Null when no agent of this source answers. */
async function askAgent(context: Context): Promise<StatusReport | null> {
  const config = await context.config();
  const { host, port } = config.http;
  const wildcard = host === '0.0.0.0' ? '127.0.0.1' : host === '::' ? '::1' : host;
  const url = `http://${wildcard.includes(':') ? `[${wildcard}]` : wildcard}:${port}/status`;
  try {
    const signal = AbortSignal.any([context.signal, AbortSignal.timeout(agentAnswersWithinMs)]);
    const response = await fetch(url, { signal, redirect: 'error' });
    const text = await response.text();
    const body: unknown = text.length <= statusMaxBytes ? JSON.parse(text) : null;
    if (isReport(body) && body.source === config.source.name) return body;
    context.logger.warn(`what answers at ${url} is no agent of ${config.source.name}`);
  } catch (error) {
    context.signal.throwIfAborted();
    context.logger.debug(`no agent answers at ${url}`, {
      reason: error instanceof Error ? error.message : String(error),
    });
  }
  return null;
}

function isReport(body: unknown): body is StatusReport {
  if (typeof body !== 'object' || body === null) return false;
  const { source, firstLine, ifHostVanished, attention, archives } = body as Partial<
    Record<keyof StatusReport, unknown>
  >;
  return (
    [source, firstLine, ifHostVanished].every((each) => typeof each === 'string') &&
    [attention, archives].every(Array.isArray)
  );
}

async function readArchives(context: Context, options: ArchiveOptions): Promise<StatusSnapshot> {
  const config = options.from === undefined ? await context.config() : null;
  const opened = await openEachArchive(context, options, { tolerant: config !== null });
  const read = async (service: ServiceId | null) =>
    await Promise.all(opened.map((one) => readArchive(context, config, one, service)));
  const found = opened.flatMap(({ opened: one }) => (one instanceof QazynaError ? [] : [one]));
  const source = found[0]?.source ?? config?.source.name ?? '';
  const services = await Promise.all(
    (await allServices(config, found)).map(async ({ kind, name }) => {
      const archives = await read({ kind, name });
      const unknown = { log: null, seenMicros: null, snapshots: noSnapshots, counters: {} };
      return { kind, name, state: 'watched' as const, archives, ...unknown };
    }),
  );
  const known = config?.source.mysql === null ? [] : await read(null);
  const hasMysql = config === null ? known.some(({ state }) => state !== 'empty') : config.source.mysql !== null;
  const isOnlyServices = !hasMysql && services.length > 0;
  const upkeep = await Promise.all(found.map((one) => readUpkeep(one, config, context.signal)));
  return fromArchives(config, source, {
    mysql: !isOnlyServices,
    archives: isOnlyServices ? [] : known,
    services,
    upkeep,
  });
}

/** Those of the configuration, or else all that an archive knows of. */
async function allServices(config: Config | null, found: readonly OpenedNamedArchive[]): Promise<ServiceId[]> {
  if (config !== null) return servicesOf(config);
  const each = (await Promise.all(found.map(servicesIn))).flat();
  return [...new Map(each.map((one) => [one.chainName, one])).values()];
}

async function readArchive(
  context: Context,
  config: Config | null,
  { archive, opened }: { archive: NamedArchive; opened: OpenedNamedArchive | QazynaError },
  service: ServiceId | null,
): Promise<ArchiveStatus> {
  const failureDomain = config?.archives.find(({ name }) => name === archive.name)?.failureDomain ?? 'other_host';
  const base = { name: archive.name, url: archive.place, failureDomain };
  if (!(opened instanceof QazynaError)) {
    const source = service === null ? opened.source : serviceChain(opened.source, service);
    return { ...(await readOne(context, { ...opened, source })), ...base };
  }
  // A folder that is no archive yet: the agent makes it one.
  return { ...nothing, ...base, state: opened.code === 'QZ2408' ? 'empty' : 'unreachable' };
}

const noSnapshots = { everyMs: 0, running: false };

const nothing = {
  state: 'empty' as const,
  next: 0,
  lastCommitMicros: 0,
  completeThroughMicros: 0,
  snapshotId: '',
  snapshotMicros: 0,
  windowMicros: 0,
  prunedMicros: 0,
};

async function readOne(
  context: Context,
  { store, source }: OpenedNamedArchive,
): Promise<Omit<ArchiveStatus, 'name' | 'url' | 'failureDomain'>> {
  const found = await listCompleteSnapshots(store, { source, signal: context.signal });
  const [snapshot] = found;
  const named = { snapshotId: snapshot?.id ?? '', snapshotMicros: snapshot?.finishedMicros ?? 0 };
  const history = await ArchiveHistory.find(store, source, context);
  if (history === null) return { ...nothing, ...named };
  const last = history.items.findLast((item) => item.type === 'segment')?.decoded.header;
  return {
    ...named,
    ...restorableSince(history.begin, found),
    state: last === undefined ? 'empty' : 'following',
    next: (last?.lastLogNumber ?? -1) + 1,
    lastCommitMicros: last?.chainLastCommitMicros ?? 0,
    completeThroughMicros: last?.completeThroughMicros ?? 0,
  };
}

function fromArchives(
  config: Config | null,
  source: string,
  found: Pick<StatusSnapshot, 'mysql' | 'archives' | 'services' | 'upkeep'>,
): StatusSnapshot {
  const { archives } = found;
  const newest = archives.toSorted((a, b) => b.snapshotMicros - a.snapshotMicros)[0];
  return {
    version: readVersion(),
    from: config === null ? 'archive' : 'files',
    source,
    atMicros: Date.now() * 1000,
    agentStartedMicros: 0,
    capture: null,
    log: null,
    standby: null,
    metricsPush: null,
    ...found,
    snapshots: {
      engine: config?.snapshots.engine ?? '',
      everyMs: config?.snapshots.everyMs ?? 0,
      running: false,
      lastId: newest?.snapshotId ?? '',
      lastFinishedMicros: newest?.snapshotMicros ?? 0,
    },
    acknowledgeAfter: config?.source.acknowledgeAfter ?? 'none',
    rpoZero: false,
    alarms: [],
  };
}

function lines(whole: StatusReport, width: number): string[] {
  const shown = [whole.firstLine, `${whole.ifHostVanished}`];
  for (const [index, { code, sentence, hint }] of whole.attention.entries()) {
    if (index > 0) shown.push(`${code}: ${sentence}`);
    shown.push(`hint${index === 0 ? ` (${code})` : ''}: ${hint}`);
  }
  const { capture, log, snapshots } = whole;
  if (whole.mysql) shown.push('');
  if (capture)
    shown.push(
      `source   ${whole.source}, ${capture.state} at ${capture.file === '' ? 'the beginning' : `${capture.file}:${capture.position}`}, timeline ${capture.generation}, ${formatCount(capture.transactions)} transactions since the agent started`,
    );
  if (log)
    shown.push(
      `log      ${lagText(whole, log)} behind, entries ${log.first} to ${log.next}, ${formatBytes(log.bytes)}${log.maxBytes === 0 ? '' : ` of ${formatBytes(log.maxBytes)}`}, last commit ${formatInstant(log.lastCommitMicros)}`,
    );
  if (snapshots.everyMs > 0 && whole.mysql)
    shown.push(
      `snapshot ${snapshots.engine} every ${formatDuration(snapshots.everyMs)}${snapshots.running ? ', one is being taken now' : ''}`,
    );
  if (whole.mysql) shown.push(`RPO      ${rpo(whole)}`, '', ...archiveTable(whole, whole.archives, width));
  for (const service of whole.services) shown.push('', ...serviceLines(whole, service, width));
  if (whole.upkeep.length > 0) shown.push('', ...whole.upkeep.map((archive) => upkeepLine(whole, archive)));
  return shown.map(clean);
}

function rpo(whole: StatusReport): string {
  if (whole.rpoZero) return '0';
  return `${lagText(whole, worst(whole))} (nothing waits: acknowledge_after is ${whole.acknowledgeAfter})`;
}

function serviceLines(whole: StatusReport, service: ServiceStatus, width: number): string[] {
  const { kind, name, state, log, snapshots, counters } = service;
  const told = state === 'watched' ? '' : `, ${state}`;
  const logged = log === null ? '' : `, log ${lagText(whole, log)} behind, ${formatBytes(log.bytes)}`;
  const due = snapshots.everyMs === 0 ? '' : `, snapshots every ${formatDuration(snapshots.everyMs)}`;
  const taking = snapshots.running ? ' (one is being taken now)' : '';
  const numbers = Object.entries(counters).map(([what, value]) => `${what.replaceAll('_', ' ')} ${formatCount(value)}`);
  return [
    `${kind} ${name}${told}${logged}${due}${taking}`,
    ...seenLine(whole, service),
    ...(numbers.length === 0 ? [] : [`  ${numbers.join(', ')}`]),
    ...archiveTable(whole, service.archives, width),
  ];
}

function seenLine(whole: StatusReport, { seenMicros }: ServiceStatus): string[] {
  const age = seenMicros === null ? null : ageMs(whole, seenMicros);
  if (age === null) return [];
  const late = age > seenWithinMs ? ': it may take longer than usual until a change is seen' : '';
  return [`  all of it was looked at within the last ${formatDuration(age)}${late}`];
}

function upkeepLine(whole: StatusReport, archive: ArchiveUpkeep): string {
  const { name, verified, verifiedFullMicros, stored, drilled, drilledGoodMicros } = archive;
  const age = (micros: number) => `${formatDuration(ageMs(whole, micros) ?? 0)} ago`;
  const full = verifiedFullMicros === 0 ? '' : `, all of it ${age(verifiedFullMicros)}`;
  const checked = verified === null ? 'not verified yet' : `verified ${age(verified.atMicros)}${full}`;
  const held =
    stored === null ? '' : `; it held ${formatBytes(stored.bytes)} in ${formatCount(stored.objects)} objects then`;
  const aDay = stored?.aDay ?? null;
  const daily =
    aDay === null
      ? ''
      : `, a day adds ${formatBytes(aDay.historyBytes + aDay.snapshotBytes)}, history in ${formatCount(aDay.historyObjects)} objects`;
  const good = drilledGoodMicros === 0 ? 'no good drill yet' : `last good drill ${age(drilledGoodMicros)}`;
  const took = drilled === null || !drilled.good ? '' : ` (${formatDuration(drilled.restoreMs)} until it answered)`;
  return `trust    ${name}: ${checked}${held}${daily}; ${good}${took}`;
}

function worst(whole: StatusReport): ArchiveStatus | undefined {
  return whole.archives.toSorted((a, b) => (lagMs(whole, b) ?? 0) - (lagMs(whole, a) ?? 0))[0];
}

function archiveTable(whole: StatusReport, archives: readonly ArchiveStatus[], width: number): string[] {
  return formatTable(
    archives,
    [
      { title: 'archive', value: ({ name }) => name, shrinks: true },
      { title: 'state', value: ({ state }) => state },
      { title: 'behind', value: (archive) => lagText(whole, archive), align: 'right' },
      { title: 'last commit', value: ({ lastCommitMicros }) => formatInstant(lastCommitMicros) },
      { title: 'snapshot age', value: ({ snapshotMicros }) => ageText(whole, snapshotMicros), align: 'right' },
      { title: 'window', value: ({ windowMicros }) => ageText(whole, windowMicros), align: 'right' },
      { title: 'outlives host', value: ({ failureDomain }) => (failureDomain === 'other_host' ? 'yes' : 'no') },
    ],
    width,
  );
}

function lagText(whole: StatusReport, copy: Parameters<typeof lagMs>[1] | undefined): string {
  const lag = copy === undefined ? null : lagMs(whole, copy);
  return lag === null ? 'unknown' : formatDuration(lag);
}

function ageText(whole: StatusReport, micros: number): string {
  const age = ageMs(whole, micros);
  return age === null ? 'none' : formatDuration(age);
}
