/** What would keep a Grafana from being protected, before it does: its tokens, what they may see, its version. Changes nothing there. */
import { readSecret } from '../../core/config/secrets.ts';
import type { GrafanaConfig } from '../../core/config/services.ts';
import { QazynaError } from '../../core/errors/error.ts';
import { objectTypes } from '../../core/grafana/objects.ts';
import { GrafanaReader } from '../../core/grafana/reader.ts';
import { GrafanaServer, isTried } from '../../core/grafana/server.ts';
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

async function examineToken(
  { name, url }: GrafanaConfig,
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
    const held = await examineRights(new GrafanaReader(server, { org: organization.org, version }, signal));
    const sentence = `Grafana ${name} (${version || 'of a version that it hides'}) at ${url} can be protected: ${held} of organization ${organization.name}.`;
    found.push(finding('QZ2959', 'ok', sentence, ''));
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

/** Asks for one of each kind as the agent would, so that a right that is missing is named. */
async function examineRights(reader: GrafanaReader): Promise<string> {
  const counts = new Map<string, number>();
  for (const type of objectTypes) {
    const listed = await reader.list(type);
    counts.set(type, listed?.length ?? 0);
    const first = listed?.find(({ object }) => object === null);
    if (first === undefined) continue;
    await reader.fetch(first.key);
    if (type === 'dashboard') await reader.newestVersion(first.key.uid);
  }
  const of = (type: string, what: string) => {
    const count = counts.get(type) ?? 0;
    return `${count} ${what}${count === 1 ? '' : 's'}`;
  };
  return `${of('dashboard', 'dashboard')} in ${of('folder', 'folder')}, ${of('datasource', 'data source')}, ${of('rule-group', 'rule group')}`;
}

function finding(code: string, severity: Finding['severity'], sentence: string, hint: string): Finding {
  return { code, severity, sentence, hint, fixable: false };
}
