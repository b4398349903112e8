/** `qazyna restore grafana --to T`: a Grafana, or one dashboard of it, as it was at an instant; in a server, or as files. */
import { writeFile } from 'node:fs/promises';
import { resolve } from 'node:path';
import type { Command } from 'commander';
import { placeOfHttpUrl, placeUrlExpected } from '../core/config/keys.ts';
import { readSecret } from '../core/config/secrets.ts';
import { configurationError, exitCodes } from '../core/errors/error.ts';
import { typeNames } from '../core/grafana/objects.ts';
import { GrafanaServer } from '../core/grafana/server.ts';
import { type GrafanaState, opened } from '../core/grafana/state.ts';
import { formatCount, formatInstantTwice } from '../core/progress/format.ts';
import { formatTable } from '../core/progress/table.ts';
import type { GrafanaPlan } from '../restore-tool/grafana/plan.ts';
import type { Action, GrafanaRestoreReport, RestoreStep, Target } from '../restore-tool/grafana/types.ts';
import {
  type ArchiveOptions,
  archiveOptions,
  chooseService,
  type OpenedNamedArchive,
  openOneArchive,
} from './archives.ts';
import { serviceMicrosOf } from './time-option.ts';
import { addVerb, type Context, type Frame, wholeNumber } from './verb.ts';

interface Options extends ArchiveOptions {
  to: string;
  dashboard?: string;
  version?: number;
  service?: string;
  url?: string;
  tokenFile?: string[];
  org?: number;
  toFile?: string;
  toDir?: string;
  withProvisioned?: boolean;
  dryRun?: boolean;
}

const limits =
  'An instant is when the agent saw a change, at most some seconds after it was made. Nothing is ever deleted.';

export function addRestoreGrafana(restore: Command, frame: Frame): void {
  addVerb<Options>(restore, frame, {
    usage: 'grafana',
    summary: 'a Grafana, or one dashboard, as it was at an instant, in a running server or as files',
    about: `--to takes latest, an instant with its zone (2026-11-23T10:15:00Z) or 15m-ago. ${limits} What is missing is made, what differs is changed, what is the same is left alone; the same command once more changes nothing. Secrets of data sources and contact points are told to nobody by Grafana: those to enter again are listed. Exit code 5 when something was refused.`,
    examples: [
      ['restore grafana --to 15m-ago --dry-run', 'What would be made, and what changed?'],
      ['restore grafana --to 15m-ago --dashboard cIBgcSjkk', 'One dashboard, and what it lacks'],
      [
        'restore grafana --to latest --url http://127.0.0.1:3000 --token-file ./token --from file:///mnt/offsite/qazyna',
        'Into a new server, after the loss of a host',
      ],
      ['restore grafana --to latest --to-dir ./grafana', 'Everything as files, for git or provisioning'],
    ],
    options: (command) => {
      command.requiredOption('--to <instant>', 'how far (see above)');
      command.option('--dashboard <uid>', 'only this dashboard; of what it needs, only what is missing');
      command.option('--version <n>', 'with --dashboard: this version of it', wholeNumber(0, 2 ** 53 - 1));
      command.option('--service <name>', 'which Grafana, where several are protected');
      command.option('--url <url>', 'server to restore into (else grafana.url of the configuration)');
      command.option(
        '--token-file <file>',
        'file with the token of a service account (more than once for several organizations)',
        (file: string, before: string[] = []) => [...before, file],
      );
      command.option('--org <id>', 'only the organization that had this number', wholeNumber(0, 2 ** 31));
      command.option('--to-file <file>', 'with --dashboard: write its JSON there (- for stdout), and ask no server');
      command.option('--to-dir <folder>', 'write everything as files into a new folder, and ask no server');
      command.option('--with-provisioned', 'make what came from provisioning files, too, as ordinary objects');
      archiveOptions(command);
      command.option('--dry-run', 'only show what would be done');
    },
    run,
  });
}

async function run(context: Context, options: Options): Promise<number> {
  if (options.dashboard === undefined && (options.version !== undefined || options.toFile !== undefined))
    throw configurationError(
      'QZ2963',
      '--version and --to-file go with --dashboard only.',
      'Say which dashboard; `qazyna history grafana` lists their uids.',
    );
  const toMicros = serviceMicrosOf(options.to);
  // Without a lease: all is read within seconds, and what is given up meanwhile stays for a day.
  const archive = await openOneArchive(context, options);
  const service = await chooseService(archive, 'grafana', options.service);
  const { planGrafana } = await import('../restore-tool/grafana/plan.ts');
  const { signal, logger } = context;
  const { store } = archive;
  const plan = await planGrafana({ store, chainName: service.chainName, toMicros, to: options.to, signal, logger });
  if (options.version !== undefined) await useVersion(plan, options, signal);
  const orgs = orgsOf(plan.state, options.org, options.dashboard ?? null);
  if (options.toFile !== undefined) return await toFile(context, plan.state, orgs, options);
  if (options.toDir !== undefined) return await toDir(context, plan, orgs, options);
  return await intoServer(context, { archive, plan, orgs, service: service.name }, options);
}

/** The version in the place of the one that was there at the instant. */
async function useVersion({ history, state }: GrafanaPlan, options: Options, signal: AbortSignal): Promise<void> {
  const { findVersion } = await import('../restore-tool/grafana/history.ts');
  const { dashboard = '', version = 0 } = options;
  const found = await findVersion(history, dashboard, version, signal);
  if (found === null)
    throw configurationError(
      'QZ2961',
      `The archive holds no version ${version} of dashboard ${dashboard}.`,
      `See \`qazyna history grafana ${dashboard}\`.`,
    );
  state.put(found.meta, found.sha256, found.body);
}

/** Organizations that hold something of what is wanted. */
function orgsOf(state: GrafanaState, only: number | undefined, dashboard: string | null): number[] {
  const held = [...state.objects.values()]
    .filter(({ meta }) => dashboard === null || (meta.type === 'dashboard' && meta.uid === dashboard))
    .map(({ meta }) => meta.org);
  const orgs = [...new Set(held)].filter((org) => only === undefined || org === only).sort((a, b) => a - b);
  if (orgs.length > 0) return orgs;
  const what = dashboard === null ? 'nothing' : `no dashboard ${dashboard}`;
  throw configurationError(
    'QZ2964',
    `The archive holds ${what}${only === undefined ? '' : ` of organization ${only}`} at that instant.`,
    'See `qazyna history grafana`: it lists what there was, and when it was deleted.',
  );
}

async function toFile(
  context: Context,
  state: GrafanaState,
  orgs: readonly number[],
  { dashboard = '', toFile: file = '' }: Options,
): Promise<number> {
  const { dashboardText } = await import('../restore-tool/grafana/tree.ts');
  const kept = state.get({ org: orgs[0] ?? 0, type: 'dashboard', uid: dashboard });
  if (kept === null) throw new Error(`dashboard ${dashboard} was there a moment ago`);
  const text = dashboardText(opened(kept));
  const { title, version } = kept.meta;
  if (file === '-') context.out.say(text.trimEnd());
  else await writeFile(resolve(file), text, { mode: 0o640 });
  if (file !== '-' || context.json)
    context.out.result({ dashboard: { uid: dashboard, title, version, file } }, [
      `Dashboard ${title} (${dashboard}), version ${version ?? 'unknown'}, is in ${file}.`,
    ]);
  return exitCodes.done;
}

async function toDir(context: Context, plan: GrafanaPlan, orgs: readonly number[], { toDir: dir = '' }: Options) {
  const { writeTree } = await import('../restore-tool/grafana/tree.ts');
  const files = await writeTree(plan.state, orgs, resolve(dir));
  context.out.result({ tree: { dir: resolve(dir), files, completeThroughMicros: plan.completeThroughMicros } }, [
    `${formatCount(files)} files are in ${dir}.`,
    `  known     everything up to ${formatInstantTwice(plan.completeThroughMicros)}`,
    '  secrets   stand as names of variables in datasources/, and as [REDACTED] in alerting/',
  ]);
  return exitCodes.done;
}

interface Wanted {
  archive: OpenedNamedArchive;
  plan: GrafanaPlan;
  orgs: readonly number[];
  service: string;
}

async function intoServer(context: Context, wanted: Wanted, options: Options): Promise<number> {
  const { restoreGrafana } = await import('../restore-tool/grafana/restore.ts');
  const { state, completeThroughMicros } = wanted.plan;
  const targets = await openTargets(context, wanted, options);
  const isDryRun = options.dryRun === true;
  const step = context.progress.step(isDryRun ? 'comparing' : 'restoring', { unit: 'objects' });
  try {
    const report = await restoreGrafana({
      state,
      targets,
      dashboard: options.dashboard ?? null,
      withProvisioned: options.withProvisioned === true,
      message: `restored by qazyna to ${options.version === undefined ? options.to : `version ${options.version}`}`,
      isDryRun,
      onStep: () => step.add(1),
      signal: context.signal,
    });
    step.end();
    const place = { archive: wanted.archive.name, to: options.to, server: targets[0]?.server.url ?? '', isDryRun };
    const counts = countsOf(report.steps);
    context.out.result(
      { restore: { ...place, completeThroughMicros, counts, ...report } },
      lines(context, place, report, completeThroughMicros),
    );
    return counts.refused > 0 ? exitCodes.attention : exitCodes.done;
  } finally {
    for (const { server } of targets) server.close();
  }
}

/** Each organization with the token that opens it: known by its name, or by being the only one. */
async function openTargets(context: Context, { plan, orgs, service }: Wanted, options: Options): Promise<Target[]> {
  const { url, files } = await serverOf(context, service, options);
  const rooms: Omit<Target, 'fromOrg'>[] = [];
  for (const file of files) {
    const warn = (sentence: string) => context.logger.warn(sentence);
    const token = await readSecret(resolve(file), { warn, environment: context.environment });
    const server = new GrafanaServer({ url, token });
    const version = await server.requireVersion(context.signal);
    rooms.push({ server, version, ...(await server.organization(context.signal)) });
  }
  return orgs.map((fromOrg) => {
    const name = plan.state.organizations.get(fromOrg)?.name ?? '';
    const named = rooms.filter((room) => room.name === name);
    const [found] = named.length > 0 ? named : orgs.length === 1 && rooms.length === 1 ? rooms : [];
    if (found !== undefined) return { fromOrg, ...found };
    throw configurationError(
      'QZ2958',
      `No token opens an organization called ${name || fromOrg} at ${url}.`,
      'Make it there, with a service account; give its token with --token-file, or restore one organization alone with --org.',
    );
  });
}

async function serverOf(context: Context, name: string, options: Options): Promise<{ url: string; files: string[] }> {
  const needsConfig = options.url === undefined || (options.tokenFile === undefined && options.from === undefined);
  const known = needsConfig ? ((await context.config()).grafana.find((one) => one.name === name) ?? null) : null;
  const url = options.url === undefined ? known?.url : givenUrl(options.url);
  const files = options.tokenFile ?? (url === known?.url ? known?.tokenFiles : undefined) ?? [];
  if (url !== undefined && files.length > 0) return { url, files };
  throw configurationError(
    'QZ2956',
    'restore grafana was not told which server to restore into, and with which token.',
    'Give --url http://HOST:3000 and --token-file FILE; or --to-dir FOLDER to only write files.',
  );
}

function givenUrl(text: string): string {
  const url = placeOfHttpUrl(text);
  if (url !== null) return url;
  throw configurationError(
    'QZ2968',
    `--url must be ${placeUrlExpected}.`,
    'Give the root_url of the Grafana; what follows ? or # is no part of it, and the token is given with --token-file.',
  );
}

function countsOf(steps: readonly RestoreStep[]): Record<Action, number> {
  const counts = { create: 0, update: 0, same: 0, refused: 0 };
  for (const { action } of steps) counts[action] += 1;
  return counts;
}

function lines(
  { out }: Context,
  { archive, to, server, isDryRun }: { archive: string; to: string; server: string; isDryRun: boolean },
  { steps, secrets }: GrafanaRestoreReport,
  completeThroughMicros: number,
): string[] {
  const { create, update, same, refused } = countsOf(steps);
  const told = steps.filter(({ action, notes }) => action !== 'same' || notes.length > 0);
  const table = formatTable(
    told,
    [
      { title: 'action', value: ({ action }) => action },
      { title: 'what', value: ({ type }) => typeNames[type] },
      { title: 'title', value: ({ title }) => title, shrinks: true },
      { title: 'uid', value: ({ uid }) => uid },
      { title: 'why', value: ({ reason, notes }) => [reason, ...notes].filter(Boolean).join('; '), shrinks: true },
    ],
    out.width,
  );
  const [made, changed] = isDryRun ? ['would be made', 'would be changed'] : ['made', 'changed'];
  return [
    `${isDryRun ? 'Restoring' : 'Restored'} Grafana at ${server} to ${to} from ${archive}: ${formatCount(create)} ${made}, ${formatCount(update)} ${changed}, ${formatCount(same)} the same, ${formatCount(refused)} refused.`,
    ...(told.length === 0 ? [] : table.map((line) => `  ${line}`)),
    ...secrets.map(
      ({ type, title, uid, fields }) => `  enter again: ${fields.join(', ')} of ${typeNames[type]} ${title} (${uid})`,
    ),
    `  known     everything up to ${formatInstantTwice(completeThroughMicros)}`,
    `  limits    ${limits}`,
  ];
}
