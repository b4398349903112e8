/** What would keep an InfluxDB from being protected, before it does. Changes nothing there. */
import { readSecret } from '../../core/config/secrets.ts';
import type { InfluxdbConfig } from '../../core/config/services.ts';
import { QazynaError } from '../../core/errors/error.ts';
import { readDefinitions, readSubscriptions } from '../../core/influxdb/definitions.ts';
import { InfluxdbServer } from '../../core/influxdb/server.ts';
import type { Finding } from './examine.ts';

export async function examineInfluxdb(
  { name, url, user, passwordFile, databases }: InfluxdbConfig,
  { environment, signal }: { environment: NodeJS.ProcessEnv; signal: AbortSignal },
): Promise<Finding[]> {
  const found: Finding[] = [];
  const warn = (sentence: string) =>
    found.push(finding('QZ2024', 'warn', sentence, 'Only root and the account of the agent need to read it.'));
  try {
    const password = passwordFile === null ? '' : await readSecret(passwordFile, { warn, environment });
    const server = new InfluxdbServer({ url, user, password });
    try {
      const version = await server.requireVersion(signal);
      const definitions = await readDefinitions(server, databases, signal);
      await readSubscriptions(server, signal);
      const names = definitions.databases.map((one) => one.name);
      const held = names.length === 0 ? 'no database yet' : names.join(', ');
      found.push(finding('QZ2043', 'ok', `InfluxDB ${name} (${version}) at ${url} can be protected: ${held}.`, ''));
      const missing = databases?.filter((one) => !names.includes(one)) ?? [];
      if (missing.length > 0)
        found.push(
          finding(
            'QZ2044',
            'warn',
            `InfluxDB ${name} has no database ${missing.join(', ')}, which influxdb.databases names.`,
            'It is protected from the moment on that it is made; else mend the name.',
          ),
        );
    } finally {
      server.close();
    }
  } catch (error) {
    if (!(error instanceof QazynaError)) throw error;
    found.push(finding(error.code, 'fail', error.message, error.hint));
  }
  return found;
}

function finding(code: string, severity: Finding['severity'], sentence: string, hint: string): Finding {
  return { code, severity, sentence, hint, fixable: false };
}
