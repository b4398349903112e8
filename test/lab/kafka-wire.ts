/** The one question that the lab asks a broker, without any client: how many brokers it knows of. */
import { connect } from 'node:net';

const describeCluster = 60;
const correlationId = 7;
const answerMaxBytes = 64 * 1024;

/**
 * DescribeCluster v0, header v2 (Kafka's DescribeClusterRequest.json and DescribeClusterResponse.json, flexible versions):
 * only brokers that are not fenced are counted. 0 while it does not answer.
 */
export async function brokersKnownTo(port: number, timeoutMs: number): Promise<number> {
  const socket = connect(port, '127.0.0.1');
  socket.setTimeout(timeoutMs, () => socket.destroy(new Error('no answer')));
  try {
    socket.write(request());
    let bytes = Buffer.alloc(0);
    for await (const part of socket) {
      bytes = Buffer.concat([bytes, part as Buffer]);
      if (bytes.length > answerMaxBytes) return 0;
      if (bytes.length >= 4 && bytes.length >= 4 + bytes.readUInt32BE(0)) return brokersIn(bytes.subarray(4));
    }
    return 0;
  } catch {
    return 0;
  } finally {
    socket.destroy();
  }
}

/** Length, key, version, correlation, client id (null), no tags; not the authorized operations, no tags. */
function request(): Buffer {
  const bytes = Buffer.alloc(17);
  bytes.writeUInt32BE(bytes.length - 4, 0);
  bytes.writeInt16BE(describeCluster, 4);
  bytes.writeInt32BE(correlationId, 8);
  bytes.writeInt16BE(-1, 12);
  return bytes;
}

/** Correlation, no tags, throttle time, error, its message, cluster id, controller; then the array of brokers. */
function brokersIn(answer: Buffer): number {
  if (answer.readInt32BE(0) !== correlationId || answer.readInt16BE(9) !== 0) return 0;
  let at = 11;
  for (const _ of ['message', 'cluster']) {
    const { value, end } = unsignedVarint(answer, at);
    // Compact strings say their length plus one; 0 is null.
    at = end + Math.max(0, value - 1);
  }
  return Math.max(0, unsignedVarint(answer, at + 4).value - 1);
}

function unsignedVarint(bytes: Buffer, from: number): { value: number; end: number } {
  let value = 0;
  for (let at = from, shift = 0; ; at += 1, shift += 7) {
    const byte = bytes.readUInt8(at);
    value += (byte & 0x7f) * 2 ** shift;
    if (byte < 0x80) return { value, end: at + 1 };
  }
}
