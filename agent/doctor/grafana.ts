/** What would keep a Grafana from being protected, before it does: its tokens, what they may see, its version. Changes nothing there. */
import { readSecret } from '../../core/config/secrets.ts';
import type { GrafanaConfig } from '../../core/config/services.ts';
import { QazynaError } from '../../core/errors/error.ts';
import { eachOf } from '../../core/grafana/each.ts';
import { type ObjectType, objectTypes } from '../../core/grafana/objects.ts';
import { GrafanaReader, type Listed, lacksRules } from '../../core/grafana/reader.ts';
import { GrafanaServer, isTried } from '../../core/grafana/server.ts';
import { formatCount, formatDuration } from '../../core/progress/format.ts';
import { atOnceMax, roundMs } from '../grafana/pace.ts';
import { lacksRulesError } from '../grafana/service.ts';
import type { Finding } from './examine.ts';

interface Options {
  environment: NodeJS.ProcessEnv;
  signal: AbortSignal;
}

export async function examineGrafana(config: GrafanaConfig, options: Options): Promise<Finding[]> {
  const found: Finding[] = [];
  for (const tokenFile of config.tokenFiles) {
    try {
      found.push(...(await examineToken(config, tokenFile, options)));
    } catch (error) {
      if (!(error instanceof QazynaError)) throw error;
      found.push(finding(error.code, 'fail', error.message, error.hint));
    }
  }
  return found;
}

/** So many dashboards are asked to see how fast it answers; where there are fewer, that is no matter. */
const sampleMax = 40;
/** Each should be asked again within about this, or as often as is wished. */
const roundWithinMs = 13_000;

async function examineToken(
  { name, url, checkEveryMs, tokenFiles }: GrafanaConfig,
  tokenFile: string,
  { environment, signal }: Options,
): Promise<Finding[]> {
  const found: Finding[] = [];
  const warn = (sentence: string) =>
    found.push(finding('QZ2024', 'warn', sentence, 'Only root and the account of the agent need to read it.'));
  const server = new GrafanaServer({ url, token: await readSecret(tokenFile, { warn, environment }) });
  try {
    const version = await server.requireVersion(signal);
    const organization = await server.organization(signal);
    const reader = new GrafanaReader(server, { org: organization.org, version }, signal);
    const { held, dashboards, isWithoutRules } = await examineRights(reader);
    const sentence = `Grafana ${name} (${version || 'of a version that it hides'}) at ${url} can be protected: ${held} of organization ${organization.name}.`;
    found.push(finding('QZ2959', 'ok', sentence, ''));
    if (isWithoutRules) {
      const { code, message, hint } = lacksRulesError(name);
      found.push(finding(code, 'warn', message, hint));
    }
    const tookMs = await measure(reader, dashboards);
    const round = roundMs(checkEveryMs / tokenFiles.length, tookMs) * tokenFiles.length;
    if (round > Math.max(checkEveryMs, roundWithinMs))
      found.push(
        finding(
          'QZ2966',
          'warn',
          `Grafana ${name} answers for ${formatCount(dashboards.length)} dashboards in ${formatDuration(tookMs)}: a change of one may be seen only ${formatDuration(round)} later.`,
          'Give it a faster database or processor. Dashboards that are new, renamed, moved or deleted, and those saved within the last hours, are seen sooner.',
        ),
      );
    if (!isTried(version))
      found.push(
        finding(
          'QZ2965',
          'warn',
          `Grafana ${name} is ${version || 'of an unknown version'}; 9 to 12 are what this was made for.`,
          'It is protected as far as its HTTP API is the same; look at `qazyna history grafana` after a change.',
        ),
      );
    return found;
  } finally {
    server.close();
  }
}

interface Rights {
  /** What the token sees, in words. */
  held: string;
  dashboards: readonly Listed[];
  isWithoutRules: boolean;
}

/** Asks for one of each kind as the agent would, so that a right that is missing is named. */
async function examineRights(reader: GrafanaReader): Promise<Rights> {
  const counts = new Map<string, number>();
  const types = new Set<ObjectType>();
  let dashboards: readonly Listed[] = [];
  for (const type of objectTypes) {
    const listed = await reader.list(type);
    counts.set(type, listed?.length ?? 0);
    if (listed !== null) types.add(type);
    if (type === 'dashboard') dashboards = listed ?? [];
    const first = listed?.find(({ object }) => object === null);
    if (first === undefined) continue;
    await reader.fetch(first.key);
    if (type === 'dashboard') await reader.newestVersion(first.key.uid);
  }
  const of = (type: string, what: string) => {
    const count = counts.get(type) ?? 0;
    return `${count} ${what}${count === 1 ? '' : 's'}`;
  };
  const held = `${of('dashboard', 'dashboard')} in ${of('folder', 'folder')}, ${of('datasource', 'data source')}, ${of('rule-group', 'rule group')}`;
  return { held, dashboards, isWithoutRules: lacksRules(types) };
}

/** How long the agent would take to ask for each of them. */
async function measure(reader: GrafanaReader, dashboards: readonly Listed[]): Promise<number> {
  const sample = dashboards.slice(0, sampleMax);
  if (sample.length < sampleMax) return 0;
  const startedMs = performance.now();
  await eachOf(sample, atOnceMax, ({ key }) => reader.newestVersion(key.uid));
  return ((performance.now() - startedMs) * dashboards.length) / sample.length;
}

function finding(code: string, severity: Finding['severity'], sentence: string, hint: string): Finding {
  return { code, severity, sentence, hint, fixable: false };
}
