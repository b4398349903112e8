/** What no broker is that can still be had: one without the requests that qazyna needs. */
import { createServer } from 'node:net';

/** Answers ApiVersions (v2, as Kafka's ApiVersionsResponse.json has it) with that request alone; no broker of today does. */
export async function knowsOnlyVersions(): Promise<AsyncDisposable & { port: number }> {
  const apiVersions = 18;
  const server = createServer((socket) => {
    socket.on('error', () => undefined);
    socket.on('data', (request) => {
      const answer = Buffer.alloc(24);
      answer.writeUInt32BE(answer.length - 4, 0);
      // Correlation; no error; one of one: its key, from version 0 to 2; not throttled.
      request.copy(answer, 4, 8, 12);
      answer.writeInt32BE(1, 10);
      answer.writeInt16BE(apiVersions, 14);
      answer.writeInt16BE(2, 18);
      socket.write(answer);
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  return {
    port: typeof address === 'object' && address !== null ? address.port : 0,
    [Symbol.asyncDispose]: () => new Promise((resolve) => server.close(() => resolve())),
  };
}
