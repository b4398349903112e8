/** `qazyna restore --into-server HOST:PORT`: into a running server without data of its own. */
import type { Command } from 'commander';
import { readSecret } from '../core/config/secrets.ts';
import { configurationError } from '../core/errors/error.ts';
import { formatCount, formatDuration, formatInstantTwice } from '../core/progress/format.ts';
import type { IntoServerReport } from '../restore-tool/into-server/into-server.ts';
import type { StepsRequest } from '../restore-tool/restore/types.ts';
import { addressOf } from './restore-tables.ts';
import type { Context } from './verb.ts';

export interface IntoServerOptions {
  intoServer?: string;
  serverUser?: string;
  serverPasswordFile?: string;
  listen?: string;
}

export function intoServerOptions(command: Command): void {
  command.option(
    '--into-server <host:port>',
    'into this running server, which must hold nothing; --into is for the work',
  );
  command.option('--server-user <name>', 'account for --into-server that may do everything (default: root)');
  command.option('--server-password-file <file>', 'its password');
  command.option(
    '--listen <host[:port]>',
    'address of this machine that the server can reach (needed by --into-server)',
  );
}

export async function runIntoServer(
  context: Context,
  options: IntoServerOptions,
  request: StepsRequest,
): Promise<IntoServerReport> {
  if (options.listen === undefined)
    throw configurationError(
      'QZ2038',
      '--into-server needs --listen: the server fetches the data from here by itself.',
      'Name an address of this machine that it can reach, e.g. --listen 10.0.0.7.',
    );
  const { environment, logger } = context;
  const warn = (sentence: string) => logger.warn(sentence);
  const { serverUser = 'root', serverPasswordFile } = options;
  const password = serverPasswordFile === undefined ? '' : await readSecret(serverPasswordFile, { warn, environment });
  const { restoreIntoServer } = await import('../restore-tool/into-server/into-server.ts');
  return await restoreIntoServer({
    ...request,
    recipient: { ...addressOf('--into-server', options.intoServer ?? ''), user: serverUser, password },
    listen: /:\d+$/.test(options.listen) ? addressOf('--listen', options.listen) : { host: options.listen, port: 0 },
  });
}

export function intoServerLines(to: string, archive: string, report: IntoServerReport): string[] {
  const seconds = Object.entries(report.seconds).map(([what, took]) => `${what} ${formatDuration(took * 1000)}`);
  return [
    `${report.source} is restored to ${to} from ${archive}, into ${report.server}${report.resumed ? ' (an interrupted restore was continued)' : ''}.`,
    `  up to     ${report.lastGtid === '' ? 'the snapshot' : `${report.lastGtid}, committed ${formatInstantTwice(report.lastCommitMicros)}`}`,
    `  checked   gtid_executed there is exactly ${report.gtids}`,
    `  snapshot  ${report.snapshot}, then ${formatCount(report.transactions)} transactions replayed`,
    `  server    MySQL ${report.serverVersion}, server_uuid ${report.serverUuid}; with the accounts of the source, none of ours, a replica of nobody`,
    `  took      ${seconds.join(', ')}`,
  ];
}
