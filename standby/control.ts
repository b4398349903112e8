/**
 * How the verbs `promote`, `switchover`, `rejoin` and `snapshot take` reach the running standby: HTTP over a socket file that only its account
 * and root can open. An answer is a line of JSON for each step, the last one `{"done": …}` or `{"error": …}`.
 */
import { chmod, mkdir, rm } from 'node:fs/promises';
import {
  createServer,
  request as httpRequest,
  type IncomingMessage,
  type Server,
  type ServerResponse,
} from 'node:http';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { errorText } from '../core/archive/store-error.ts';
import { configurationError, type ErrorKind, QazynaError, transientError } from '../core/errors/error.ts';
import type { Logger } from '../core/logging/logger.ts';

const maxBodyBytes = 64 * 1024;

export type ControlVerb = 'promote' | 'switchover' | 'rejoin' | 'snapshot';

/** Resolves with what is told to the verb at its end. */
export type ControlHandler = (
  verb: ControlVerb,
  options: Record<string, unknown>,
  onStep: (sentence: string) => void,
) => Promise<Record<string, unknown>>;

export function controlSocket(dir: string): string {
  return join(dir, 'control.sock');
}

/** Listens until closed. What was left by a process that was killed is removed. */
export async function serveControl(dir: string, handle: ControlHandler, logger: Logger): Promise<AsyncDisposable> {
  const path = controlSocket(dir);
  const server = createServer((request, response) => void answer(request, response, handle, logger));
  await mkdir(dir, { recursive: true, mode: 0o755 });
  await rm(path, { force: true });
  await new Promise<void>((resolve, reject) => server.once('error', reject).listen(path, resolve));
  await chmod(path, 0o600);
  return { [Symbol.asyncDispose]: () => closed(server) };
}

async function closed(server: Server): Promise<void> {
  server.closeAllConnections();
  await new Promise<void>((resolve) => server.close(() => resolve()));
}

async function answer(
  request: IncomingMessage,
  response: ServerResponse,
  handle: ControlHandler,
  logger: Logger,
): Promise<void> {
  const verb = /^\/(promote|switchover|rejoin|snapshot)$/.exec(request.url ?? '')?.[1] as ControlVerb | undefined;
  const say = (line: Record<string, unknown>) => void response.write(`${JSON.stringify(line)}\n`);
  if (request.method !== 'POST' || verb === undefined) {
    response.writeHead(404).end();
    return;
  }
  response.writeHead(200, { 'content-type': 'application/x-ndjson' });
  try {
    const options = JSON.parse(await bodyOf(request)) as Record<string, unknown>;
    logger.info(`asked to ${verb}`, { component: 'control' });
    say({ done: await handle(verb, options, (step) => say({ step })) });
  } catch (error) {
    const known = error instanceof QazynaError ? error : null;
    const { code = 'bug', kind = 'bug', hint = '', details = {} } = known ?? {};
    if (known === null)
      logger.error(`${verb} failed`, { reason: error instanceof Error ? error.stack : String(error) });
    say({ error: { code, kind, message: errorText(error), hint, details } });
  }
  response.end();
}

async function bodyOf(request: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of request as AsyncIterable<Buffer>) {
    bytes += chunk.length;
    if (bytes > maxBodyBytes) throw new Error('the request is too long');
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString('utf8') || '{}';
}

/** Asks the standby that runs on this host. Throws QZ2714 when none does, and what it answered with. */
export async function askStandby(
  dir: string,
  verb: ControlVerb,
  options: Record<string, unknown>,
  { onStep, signal }: { onStep: (sentence: string) => void; signal: AbortSignal },
): Promise<Record<string, unknown>> {
  const response = await send(dir, verb, options, signal);
  for await (const line of createInterface({ input: response })) {
    const told = JSON.parse(line) as { step?: string; done?: Record<string, unknown>; error?: ControlError };
    if (told.step !== undefined) onStep(told.step);
    if (told.done !== undefined) return told.done;
    if (told.error !== undefined) throw passedOn(told.error);
  }
  throw transientError(
    'QZ4717',
    'The standby ended while it was asked.',
    'What was begun goes on when it starts again: see `qazyna status`.',
  );
}

interface ControlError {
  code: string;
  kind: string;
  message: string;
  hint: string;
  details: Record<string, unknown>;
}

function send(dir: string, verb: ControlVerb, options: Record<string, unknown>, signal: AbortSignal) {
  return new Promise<IncomingMessage>((resolve, reject) => {
    const request = httpRequest({ socketPath: controlSocket(dir), path: `/${verb}`, method: 'POST', signal }, resolve);
    request.on('error', (cause) => reject(signal.aborted ? cause : noStandby(dir, cause)));
    request.end(JSON.stringify(options));
  });
}

function noStandby(dir: string, cause: Error) {
  return configurationError(
    'QZ2714',
    `No standby answers at ${controlSocket(dir)} (${cause.message}).`,
    'This verb is for the host of the standby, while `qazyna standby` runs: look with `systemctl status qazyna-standby`, and start it.',
    { cause },
  );
}

/** The same error as the daemon met, for this verb's exit code. */
function passedOn({ code, kind, message, hint, details }: ControlError): Error {
  const kinds: readonly ErrorKind[] = ['configuration', 'integrity', 'transient'];
  const known = kinds.find((one) => one === kind);
  return known === undefined ? new Error(message) : new QazynaError(known, code, message, hint, { details });
}
