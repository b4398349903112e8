/**
 * A stream server in a process of its own, over the binlogs of a running server: what it costs can be measured. Prints one
 * JSON object a line on stdout: its port, then its memory and how many replicas it serves; logs on stderr. Whatever is not caught ends it with 99.
 */
import { QazynaError } from '../../core/errors/error.ts';
import { createLogger } from '../../core/logging/logger.ts';
import { startStreamServer } from '../../core/stream/server.ts';
import { TailSource } from '../made/tail-source.ts';

const [folder = '', serverVersion = '', serverId = '', user = '', password = '', limits = '{}'] = process.argv.slice(2);
const say = (value: object) => process.stdout.write(`${JSON.stringify(value)}\n`);

for (const event of ['unhandledRejection', 'uncaughtException'])
  process.on(event, (error: unknown) => {
    process.stderr.write(`${event}: ${error instanceof Error ? error.stack : String(error)}\n`);
    process.exit(99);
  });

const server = await startStreamServer({
  source: new TailSource({ folder, serverVersion, serverId: Number(serverId) }),
  credentials: { user, password },
  logger: createLogger({ level: 'debug', format: 'json' }),
  identity: 'hostile',
  onFault: (error) => say({ fault: error instanceof QazynaError ? `${error.code} ${error.message}` : String(error) }),
  limits: JSON.parse(limits),
});
say({ port: server.port });
setInterval(() => say({ rssBytes: process.memoryUsage.rss(), replicas: server.replicas().length }), 100);
