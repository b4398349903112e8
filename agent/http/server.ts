/**
 * GET /status (JSON), /health (200 or 503, for monitoring and systemd), /primary and /replica (200 or 503, for load
 * balancers; role.ts) and /metrics (Prometheus). Read-only, without secrets or user data; still defensive, because anything on the network may knock: loopback by default, small requests
 * only, a deadline on each, few connections at once.
 */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { configurationError, transientError } from '../../core/errors/error.ts';
import type { Logger } from '../../core/logging/logger.ts';
import { report } from './judge.ts';
import { formatMetrics, metricsContentType } from './metrics.ts';
import { type RoleTeller, roleAnswer } from './role.ts';
import type { StatusSnapshot } from './status.ts';

export interface StatusServerOptions {
  /** Port 0 asks the system for a free one. */
  listen: { host: string; port: number };
  /** Called for each request; must be quick (no I/O that can hang). */
  status: () => StatusSnapshot | Promise<StatusSnapshot>;
  /** Null while there is nothing to tell. Left out: never. */
  roles?: () => RoleTeller | null;
  logger: Logger;
}

export interface StatusServer {
  /** `127.0.0.1:9309`, with the port that was really taken. */
  readonly address: { host: string; port: number };
  /** Resolves once no connection is left; open ones are cut. */
  close(): Promise<void>;
}

const answerWithinMs = 5000;
/** OPTIONS: what HAProxy asks with unless it is told otherwise. */
const methods = ['GET', 'HEAD', 'OPTIONS'];
const paths = ['/status', '/health', '/primary', '/replica', '/metrics'];

/** QZ2901 when the address cannot be used (taken, not ours, privileged). */
export async function startStatusServer(options: StatusServerOptions): Promise<StatusServer> {
  const server = createServer({
    maxHeaderSize: 8 * 1024,
    headersTimeout: 5000,
    requestTimeout: 10_000,
    keepAliveTimeout: 5000,
    connectionsCheckingInterval: 1000,
  });
  server.maxConnections = 64;
  server.maxRequestsPerSocket = 1000;
  server.setTimeout(15_000, (socket) => socket.destroy());
  server.on('request', (request, response) => {
    void answer(options, request, response);
  });
  await listening(server, options.listen);
  server.on('error', (error) => options.logger.warn('status endpoint', { reason: error.message }));
  const bound = server.address();
  const port = bound !== null && typeof bound === 'object' ? bound.port : options.listen.port;
  return {
    address: { host: options.listen.host, port },
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}

function listening(server: Server, { host, port }: { host: string; port: number }): Promise<void> {
  return new Promise((resolve, reject) => {
    const failed = (error: NodeJS.ErrnoException) =>
      reject(
        configurationError(
          'QZ2901',
          `http.listen cannot be used: ${host}:${port} (${error.code ?? error.message}).`,
          'Another agent or shipper may be running on this host: choose a free port above 1023 on an address of this host, for a shipper by --listen.',
          { cause: error },
        ),
      );
    server.once('error', failed);
    server.listen({ host, port, exclusive: true }, () => {
      server.removeListener('error', failed);
      resolve();
    });
  });
}

async function answer(options: StatusServerOptions, request: IncomingMessage, response: ServerResponse): Promise<void> {
  // A body is of no use to us: the connection ends with the answer, so that nobody can feed us one.
  if (request.headers['content-length'] !== undefined || request.headers['transfer-encoding'] !== undefined)
    response.setHeader('connection', 'close');
  response.setHeader('cache-control', 'no-store');
  response.setHeader('x-content-type-options', 'nosniff');
  try {
    if (request.method === undefined || !methods.includes(request.method))
      return send(response, 405, 'text/plain', `Only ${methods.join(', ')}.\n`, { allow: methods.join(', ') });
    const [path = '', query = ''] = (request.url ?? '').split('?', 2);
    if (path === '/primary' || path === '/replica') {
      const { code, body } = roleAnswer(path === '/primary' ? 'primary' : 'replica', query, options.roles?.() ?? null);
      return send(response, code, 'application/json', `${JSON.stringify(body)}\n`);
    }
    await tell(path, options, response);
  } catch (error) {
    options.logger.error('status endpoint', { reason: error instanceof Error ? error.message : String(error) });
    if (!response.headersSent) send(response, 503, 'text/plain', 'The status is not available just now.\n');
    else response.destroy();
  }
}

async function tell(path: string, { status }: StatusServerOptions, response: ServerResponse): Promise<void> {
  if (path === '/') return send(response, 200, 'text/plain', `${paths.join('\n')}\n`);
  if (!paths.includes(path)) return send(response, 404, 'text/plain', 'Not found.\n');
  const snapshot = await within(status());
  if (path === '/metrics')
    return send(response, 200, metricsContentType, formatMetrics(snapshot, process.memoryUsage.rss()));
  const whole = report(snapshot);
  if (path === '/status') return send(response, 200, 'application/json', `${JSON.stringify(whole)}\n`);
  send(response, whole.wellBeing === 'well' ? 200 : 503, 'text/plain; charset=utf-8', `${whole.firstLine}\n`);
}

function send(
  response: ServerResponse,
  code: number,
  type: string,
  body: string,
  headers: Record<string, string> = {},
): void {
  response.writeHead(code, { 'content-type': type, 'content-length': Buffer.byteLength(body), ...headers });
  response.end(response.req.method === 'HEAD' ? undefined : body);
}

async function within<T>(work: T | Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(
      () =>
        reject(transientError('QZ4910', `The status was not put together within ${answerWithinMs} ms.`, 'Try again.')),
      answerWithinMs,
    );
  });
  try {
    return await Promise.race([work, late]);
  } finally {
    clearTimeout(timer);
  }
}
