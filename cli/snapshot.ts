/** `qazyna snapshot take | list`. */
import type { Command } from 'commander';
import type { SnapshotReport, SnapshotTimeline } from '../agent/snapshot/snapshot.ts';
import { openArchive } from '../core/archive/open.ts';
import { type Config, mysqlOf } from '../core/config/config.ts';
import { mysqlEndpointOf } from '../core/config/secrets.ts';
import { configurationError, exitCodes, isKind, QazynaError } from '../core/errors/error.ts';
import { ArchiveHistory } from '../core/history/open.ts';
import { connectMysql } from '../core/mysql/connection.ts';
import { formatBytes, formatDuration, formatInstant } from '../core/progress/format.ts';
import { formatTable } from '../core/progress/table.ts';
import { type CompleteSnapshot, listSnapshots } from '../core/snapshot/manifest.ts';
import { askStandby } from '../standby/control.ts';
import { type ArchiveOptions, archiveOptions, openEachArchive } from './archives.ts';
import { describe, reportLines, type ShownReport, shownReport } from './snapshot-report.ts';
import { addVerb, type Context, type Frame } from './verb.ts';

export function addSnapshot(program: Command, frame: Frame): void {
  const snapshot = program
    .command('snapshot')
    .summary('take a full copy now, or list those there are')
    .helpCommand(false);
  addVerb(snapshot, frame, {
    usage: 'take',
    summary: 'take a snapshot into every archive now',
    about:
      'Beside a running agent too. Parts that an archive already holds are not stored again. Where `qazyna standby` runs on this host, its own server is copied.',
    examples: [['snapshot take', 'Take one before a risky change']],
    run: take,
  });
  addVerb<ArchiveOptions>(snapshot, frame, {
    usage: 'list',
    summary: 'list the snapshots of each archive, newest first',
    examples: [
      ['snapshot list', 'Those of every archive of the configuration'],
      ['snapshot list --from file:///srv/qazyna', 'Those of one archive, without any configuration'],
    ],
    options: archiveOptions,
    run: list,
  });
}

async function take(context: Context): Promise<number> {
  const config = await context.config();
  const shown = (await byDaemon(config, context)) ?? shownReport(await ofSource(config, context), 'source');
  context.out.result({ snapshot: shown }, reportLines(shown, config.source.name, context.out.width));
  return shown.archives.some(({ error }) => error !== null) ? exitCodes.attention : exitCodes.done;
}

/** Of the server of this host, where `qazyna standby` runs it; null where it does not. */
async function byDaemon(config: Config, { signal }: Context): Promise<ShownReport | null> {
  if (config.standby === null) return null;
  const onStep = (sentence: string) => void process.stderr.write(`${sentence}\n`);
  try {
    return (await askStandby(config.standby.dir, 'snapshot', {}, { onStep, signal })) as unknown as ShownReport;
  } catch (error) {
    if (isKind(error, 'configuration') && error.code === 'QZ2714') return null;
    throw error;
  }
}

async function ofSource(config: Config, context: Context): Promise<SnapshotReport> {
  const { takeSnapshot } = await import('../agent/snapshot/snapshot.ts');
  const source = await mysqlEndpointOf(mysqlOf(config), {
    warn: (sentence) => context.logger.warn(sentence),
    environment: context.environment,
  });
  const stores = await Promise.all(
    config.archives.map(async ({ name, url, encryption }) => {
      const { store } = await openArchive(url, { create: true, keys: encryption, environment: context.environment });
      return { name, store };
    }),
  );
  const timeline = await presentTimeline(config, stores, context, source);
  const step = context.progress.step(`taking a snapshot of ${config.source.name}`);
  const report = await takeSnapshot({
    engine: config.snapshots.engine,
    source,
    stores,
    sourceName: config.source.name,
    timeline,
    scratchDir: config.snapshots.scratchDir ?? '',
    signal: context.signal,
    logger: context.logger,
    onProgress: (done, total) => {
      if (total !== null) step.setTotal(total);
      step.set(done);
    },
  });
  step.end();
  return report;
}

/**
 * Which timeline the snapshot belongs to: the newest in the archives; before any history the source's own first one. Throws
 * QZ2515 for a server that is not its source: a standby's copy needs what only its daemon knows.
 */
async function presentTimeline(
  config: Config,
  stores: readonly { name: string; store: Parameters<typeof ArchiveHistory.open>[0] }[],
  context: Context,
  endpoint: Parameters<typeof connectMysql>[0],
): Promise<SnapshotTimeline> {
  let newest: SnapshotTimeline | null = null;
  for (const { store } of stores) {
    // An archive that holds nothing of this source yet tells nothing.
    const found = (await ArchiveHistory.find(store, config.source.name, context))?.newest;
    if (found && found.generation >= (newest?.generation ?? 0)) newest = found;
  }
  const connection = await connectMysql(endpoint, context.signal);
  try {
    const [row] = await connection.query('SELECT @@GLOBAL.server_uuid AS uuid');
    const uuid = String(row?.uuid ?? '').toLowerCase();
    if (newest === null) return { generation: 1, sourceUuid: uuid };
    if (newest.sourceUuid !== uuid) throw noSource(connection.name, uuid, newest.sourceUuid);
    return { generation: newest.generation, sourceUuid: uuid };
  } finally {
    await connection.close();
  }
}

function noSource(name: string, uuid: string, sourceUuid: string) {
  return configurationError(
    'QZ2515',
    `${name} is the server ${uuid}, but the newest history in the archives is of the source ${sourceUuid}.`,
    'Run this where `source.mysql` leads to the source; or on the host of a standby while `qazyna standby` runs there.',
  );
}

async function list(context: Context, options: ArchiveOptions): Promise<number> {
  const opened = await openEachArchive(context, options);
  const archives = await Promise.all(
    opened.map(async ({ archive, opened: one }) => {
      if (one instanceof QazynaError) return { ...archive, error: describe(one), snapshots: [], incomplete: [] };
      const found = await listSnapshots(one.store, { source: one.source, signal: context.signal });
      const incomplete = found.filter((each) => !each.complete).map(({ id, problem }) => ({ id, problem }));
      return { ...archive, error: null, snapshots: found.filter((each) => each.complete).map(shown), incomplete };
    }),
  );
  context.out.result(
    { archives },
    archives.flatMap((archive) => listLines(archive, context.out.width)),
  );
  return archives.some(({ error }) => error !== null) ? exitCodes.attention : exitCodes.done;
}

/** The summary as JSON: GTID sets as text. */
function shown({ complete: _, manifestBytes: __, ...snapshot }: CompleteSnapshot) {
  return { ...snapshot, gtidsBefore: snapshot.gtidsBefore.toString(), gtidsAfter: snapshot.gtidsAfter.toString() };
}

interface ListedArchive {
  name: string;
  error: { message: string; hint: string } | null;
  snapshots: ReturnType<typeof shown>[];
  incomplete: { id: string; problem: string }[];
}

function listLines({ name, error, snapshots, incomplete }: ListedArchive, width: number): string[] {
  if (error) return [`${name}: ${error.message}`, `  hint: ${error.hint}`];
  const lines =
    snapshots.length === 0
      ? ['  no complete snapshot']
      : formatTable(
          snapshots,
          [
            { title: 'snapshot', value: ({ id }) => id },
            { title: 'engine', value: ({ engine }) => engine },
            { title: 'timeline', value: ({ generation }) => generation, align: 'right' },
            { title: 'finished', value: ({ finishedMicros }) => formatInstant(finishedMicros) },
            {
              title: 'took',
              value: ({ startedMicros, finishedMicros }) => formatDuration((finishedMicros - startedMicros) / 1000),
              align: 'right',
            },
            { title: 'size', value: ({ sizeBytes }) => formatBytes(sizeBytes), align: 'right' },
            { title: 'new', value: ({ newBytes }) => formatBytes(newBytes), align: 'right' },
            { title: 'server', value: ({ serverVersion }) => serverVersion, shrinks: true },
          ],
          width - 2,
        ).map((line) => `  ${line}`);
  return [`${name}:`, ...lines, ...incomplete.map(({ problem }) => `  unfinished: ${problem}`)];
}
