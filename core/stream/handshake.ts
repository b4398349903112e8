/**
 * The connection phase: greeting, optional TLS, login. Wire facts: page_protocol_connection_phase_packets_protocol_handshake_v10,
 * …_ssl_request and …_handshake_response of the MySQL source documentation.
 */
import type { SecureContext } from 'node:tls';
import { type Attempt, authenticate, authPlugin, type Credentials, makeNonce, nonceBytes } from './auth.ts';
import type { Channel } from './channel.ts';
import { capability, errPacket, malformed, okPacket, PayloadReader, serverError } from './packets.ts';
import { pause } from './waits.ts';

export interface HandshakeOptions {
  accounts: readonly Credentials[];
  serverVersion: string;
  connectionId: number;
  secureContext: SecureContext | null;
  requireTls: boolean;
  /** Ask for the password itself even when its scramble matches. */
  fullAuthentication: boolean;
  deadlineMs: number;
  maxPacketBytes: number;
  /** How long a client that was not let in waits for its answer: guessing passwords takes that long each. */
  refusalDelayMs: number;
  signal: AbortSignal;
}

const protocolVersion = 10;
const statusAutocommit = 2;
const charsetUtf8mb4 = 255;
const sslRequestBytes = 32;
const nonceHeadBytes = 8;

const offered =
  capability.longPassword |
  capability.foundRows |
  capability.longFlag |
  capability.connectWithDb |
  capability.protocol41 |
  capability.transactions |
  capability.secureConnection |
  capability.pluginAuth |
  capability.connectAttributes |
  capability.pluginAuthLenencData;

/** The user, to be told by `welcome` that it is in; null when refused or gone. Never says which of user and password was wrong. */
export async function handshake(channel: Channel, options: HandshakeOptions): Promise<string | null> {
  const nonce = makeNonce();
  const deadline = Date.now() + options.deadlineMs;
  const leftMs = () => Math.max(1, deadline - Date.now());
  await channel.send(greeting(nonce, options));
  const limits = () => ({ maxBytes: options.maxPacketBytes, deadlineMs: leftMs() });
  let payload = await channel.read(limits());
  if (payload === null) return null;
  const wantsTls = payload.length >= 4 && (payload.readUInt32LE(0) & capability.ssl) !== 0;
  if (wantsTls && payload.length === sslRequestBytes && options.secureContext !== null) {
    channel.upgrade(options.secureContext);
    payload = await channel.read(limits());
    if (payload === null) return null;
  } else if (options.requireTls) {
    await channel.send(
      errPacket(serverError.secureTransportRequired, 'Connections using insecure transport are prohibited here.'),
    );
    return null;
  }
  const attempt = parseLogin(payload, nonce);
  const authOptions = { full: options.fullAuthentication, deadlineMs: leftMs() };
  const account = await authenticate(channel, attempt, options.accounts, authOptions);
  if (account === 'gone') return null;
  if (account !== null) return account.user;
  await pause(options.refusalDelayMs, options.signal);
  await channel.send(errPacket(serverError.accessDenied, `Access denied for user '${attempt.user.slice(0, 32)}'`));
  return null;
}

/** The last word of the connection phase. */
export function welcome(channel: Channel): Promise<void> {
  return channel.send(okPacket());
}

export function greeting(nonce: Buffer, options: HandshakeOptions): Buffer {
  const flags = offered | (options.secureContext === null ? 0 : capability.ssl);
  const version = Buffer.from(`${options.serverVersion}\0`, 'latin1');
  const fixed = Buffer.alloc(4 + nonceHeadBytes + 1 + 2 + 1 + 2 + 2 + 1 + 10);
  let at = fixed.writeUInt32LE(options.connectionId >>> 0, 0);
  at += nonce.copy(fixed, at, 0, nonceHeadBytes) + 1;
  at = fixed.writeUInt16LE(flags & 0xffff, at);
  at = fixed.writeUInt8(charsetUtf8mb4, at);
  at = fixed.writeUInt16LE(statusAutocommit, at);
  at = fixed.writeUInt16LE(flags >>> 16, at);
  fixed.writeUInt8(nonceBytes + 1, at);
  const nonceTail = Buffer.concat([nonce.subarray(nonceHeadBytes), Buffer.from([0])]);
  return Buffer.concat([Buffer.from([protocolVersion]), version, fixed, nonceTail, Buffer.from(`${authPlugin}\0`)]);
}

/** A HandshakeResponse41. Throws QZ4701 on anything else. */
export function parseLogin(payload: Buffer, nonce: Buffer): Attempt {
  const reader = new PayloadReader(payload);
  const flags = reader.u32();
  if ((flags & capability.protocol41) === 0) throw malformed('a login of the protocol before 4.1');
  reader.skip(4 + 1 + 23);
  const user = reader.untilNul().toString('utf8');
  let answer: Buffer;
  if ((flags & capability.pluginAuthLenencData) !== 0) answer = reader.bytes(reader.lenenc());
  else if ((flags & capability.secureConnection) !== 0) answer = reader.bytes(reader.u8());
  else answer = reader.untilNul();
  if ((flags & capability.connectWithDb) !== 0) reader.untilNul();
  const plugin = (flags & capability.pluginAuth) !== 0 ? reader.untilNul().toString('latin1') : '';
  return { plugin, user, answer, nonce };
}
