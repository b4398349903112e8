/** `qazyna snapshot take | list`. */
import { randomUUID } from 'node:crypto';
import type { Command } from 'commander';
import { openArchive } from '../core/archive/open.ts';
import { type Config, mysqlOf } from '../core/config/config.ts';
import { mysqlEndpointOf } from '../core/config/secrets.ts';
import { exitCodes, isKind, QazynaError } from '../core/errors/error.ts';
import { ArchiveHistory } from '../core/history/open.ts';
import { connectMysql } from '../core/mysql/connection.ts';
import { formatBytes, formatDuration, formatInstant } from '../core/progress/format.ts';
import { formatTable } from '../core/progress/table.ts';
import { type CompleteSnapshot, listSnapshots } from '../core/snapshot/manifest.ts';
import { type ArchiveOptions, archiveOptions, openEachArchive } from './archives.ts';
import { addVerb, type Context, type Frame } from './verb.ts';

export function addSnapshot(program: Command, frame: Frame): void {
  const snapshot = program
    .command('snapshot')
    .summary('take a full copy now, or list those there are')
    .helpCommand(false);
  addVerb(snapshot, frame, {
    usage: 'take',
    summary: 'take a snapshot into every archive now',
    about: 'Beside a running agent too. Parts that an archive already holds are not stored again.',
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
    ...timeline,
    scratchDir: config.snapshots.scratchDir ?? '',
    signal: context.signal,
    logger: context.logger,
    onProgress: (done, total) => {
      if (total !== null) step.setTotal(total);
      step.set(done);
    },
  });
  step.end();
  const archives = report.archives.map(({ error, ...rest }) => ({
    ...rest,
    error: error === null ? null : describe(error),
  }));
  const gtids = { gtidsBefore: report.gtidsBefore.toString(), gtidsAfter: report.gtidsAfter.toString() };
  context.out.result({ snapshot: { ...report, ...gtids, archives } }, [
    `Snapshot ${report.id} of ${config.source.name} (${formatBytes(report.sizeBytes)}, ${report.engine}${report.madeBy === null ? '' : ` by ${report.madeBy}`}) taken in ${formatDuration(report.durationMs)}.`,
    ...formatTable(
      archives,
      [
        { title: 'archive', value: ({ name }) => name },
        { title: 'new', value: ({ newBytes }) => formatBytes(newBytes), align: 'right' },
        { title: 'stored', value: ({ packBytesPut }) => formatBytes(packBytesPut), align: 'right' },
        {
          title: 'state',
          value: ({ error }) => (error === null ? 'complete' : `MISSING: ${error.message}`),
          shrinks: true,
        },
      ],
      context.out.width,
    ),
  ]);
  return archives.some(({ error }) => error !== null) ? exitCodes.attention : exitCodes.done;
}

/** Which timeline the snapshot belongs to: the newest in the archives; before any history the source's own first one. */
async function presentTimeline(
  config: Config,
  stores: readonly { name: string; store: Parameters<typeof ArchiveHistory.open>[0] }[],
  context: Context,
  endpoint: Parameters<typeof connectMysql>[0],
): Promise<{ generation: number; sourceUuid: string }> {
  let newest: { generation: number; sourceUuid: string } | null = null;
  for (const { store } of stores) {
    try {
      const history = await ArchiveHistory.open(store, config.source.name, context);
      if (history.newest && history.newest.generation >= (newest?.generation ?? 0)) newest = history.newest;
    } catch (error) {
      // An archive that holds nothing of this source yet tells nothing.
      if (!isKind(error, 'configuration') || error.code !== 'QZ2410') throw error;
    }
  }
  if (newest) return { generation: newest.generation, sourceUuid: newest.sourceUuid };
  const connection = await connectMysql(endpoint, context.signal);
  try {
    const [row] = await connection.query('SELECT @@GLOBAL.server_uuid AS uuid');
    return { generation: 1, sourceUuid: String(row?.uuid ?? randomUUID()).toLowerCase() };
  } finally {
    await connection.close();
  }
}

function describe(error: unknown): { code: string; message: string; hint: string } {
  if (error instanceof QazynaError) return { code: error.code, message: error.message, hint: error.hint };
  return { code: 'bug', message: error instanceof Error ? error.message : String(error), hint: '' };
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
