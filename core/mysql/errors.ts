/**
 * What MySQL, its protocol and the network say, sorted into the four kinds of error.
 *
 * Server error numbers: https://dev.mysql.com/doc/mysql-errors/9.7/en/server-error-reference.html
 */
import { configurationError, QazynaError, transientError } from '../errors/error.ts';

/** What mysql2 and Node put on an Error; all optional because it comes from outside. */
interface RawError {
  code?: unknown;
  errno?: unknown;
  message?: unknown;
}

/** Where and on whose behalf, for messages: `the MySQL server db1:3306`, user `qazyna`. Never a password. */
export interface MysqlPlace {
  name: string;
  user: string;
}

const networkCodes = new Set([
  'ECONNREFUSED',
  'ECONNRESET',
  'ECONNABORTED',
  'EPIPE',
  'ETIMEDOUT',
  'EHOSTUNREACH',
  'ENETUNREACH',
  'EHOSTDOWN',
  'ENETDOWN',
  'EADDRNOTAVAIL',
  'PROTOCOL_CONNECTION_LOST',
  'PROTOCOL_SEQUENCE_TIMEOUT',
]);

/**
 * Server errors that pass: too many connections, shutting down (the binlog is closed before the last connections: 1381),
 * offline mode, killed connection or query, lock waits.
 */
const passingNumbers = new Set([
  1040, 1053, 1077, 1078, 1079, 1129, 1152, 1158, 1159, 1160, 1161, 1184, 1203, 1205, 1213, 1226, 1317, 1381, 1927,
  2006, 2013, 3024, 3032, 3168, 3169, 4031,
]);

/**
 * The error that a person can act on. `doing` completes "while …", e.g. `reading the binlog status`. Errors that are
 * already sorted pass unchanged; anything unknown from the server is a configuration error with the server's own words.
 */
export function sortMysqlError(error: unknown, place: MysqlPlace, doing: string): QazynaError {
  if (error instanceof QazynaError) return error;
  const { code, errno, text } = factsOf(error);
  const details = { code, errno };
  if (errno !== null && errno >= 1000 && errno < 10_000_000) {
    if (passingNumbers.has(errno))
      return transientError(
        'QZ4111',
        `${place.name} could not serve us while ${doing}: ${text} (${errno}).`,
        'It is tried again; see the error log of the server if it lasts.',
        { cause: error, details },
      );
    return refusedByServer(errno, text, place, doing, error);
  }
  if (code === 'ENOTFOUND' || code === 'EAI_AGAIN')
    return transientError(
      'QZ4112',
      `The host name of ${place.name} cannot be resolved (${code}).`,
      'Check the name in source.mysql.host and the name service of this host.',
      { cause: error, details },
    );
  if (code === 'ENOENT' || code === 'EACCES')
    return transientError(
      'QZ4110',
      `${place.name} cannot be reached (${code}).`,
      'Check that mysqld runs, and the path and permissions of its socket.',
      { cause: error, details },
    );
  const tls = tlsError(code, text, place, error);
  if (tls) return tls;
  if (networkCodes.has(code))
    return transientError(
      'QZ4110',
      `${place.name} cannot be reached while ${doing} (${code === 'PROTOCOL_CONNECTION_LOST' ? 'it closed the connection' : code}).`,
      'Check that mysqld runs there, host and port in source.mysql, and firewalls between.',
      { cause: error, details },
    );
  return transientError(
    'QZ4113',
    `The connection to ${place.name} failed while ${doing}: ${text}.`,
    'It is tried again; if it lasts, check that a MySQL server answers on this port.',
    { cause: error, details },
  );
}

function factsOf(error: unknown): { code: string; errno: number | null; text: string } {
  const raw = (typeof error === 'object' && error !== null ? error : { message: error }) as RawError;
  return {
    code: typeof raw.code === 'string' ? raw.code : '',
    errno: typeof raw.errno === 'number' && raw.errno > 0 ? raw.errno : null,
    text: String(raw.message ?? error)
      .replace(/\s+/g, ' ')
      .replace(/\.$/, ''),
  };
}

/** mysql2 replaces the code of every failed TLS handshake with HANDSHAKE_SSL_ERROR, so the text must tell them apart. */
function tlsError(code: string, text: string, place: MysqlPlace, cause: unknown): QazynaError | null {
  if (code === 'HANDSHAKE_NO_SSL_SUPPORT')
    return configurationError(
      'QZ2112',
      `${place.name} offers no TLS, but source.mysql.tls asks for it.`,
      'Give the server a certificate (ssl_ca, ssl_cert, ssl_key), or set tls.mode to preferred or disabled.',
      { cause },
    );
  if (/altnames|does not match certificate/i.test(text))
    return configurationError(
      'QZ2113',
      `The certificate of ${place.name} is for another host: ${text}.`,
      'Use a host name that the certificate carries in source.mysql.host, or tls.mode verify_ca.',
      { cause },
    );
  if (/certificate|self.signed|issuer/i.test(text) && !/disconnected/i.test(text))
    return configurationError(
      'QZ2114',
      `The certificate of ${place.name} is not trusted: ${text}.`,
      'Name the file of the authority that signed it in source.mysql.tls.ca_file (for a stock server: ca.pem in its data folder).',
      { cause },
    );
  if (/wrong version number|unsupported protocol|no shared cipher|handshake failure|alert/i.test(text))
    return configurationError(
      'QZ2115',
      `${place.name} and this program could not agree on TLS: ${text}.`,
      'Check that the server allows TLS 1.2 or 1.3, and the client certificate if it asks for one.',
      { cause },
    );
  return null;
}

function refusedByServer(errno: number, text: string, place: MysqlPlace, doing: string, cause: unknown): QazynaError {
  const details = { errno };
  if (errno === 1045 || errno === 1698)
    return configurationError(
      'QZ2110',
      `${place.name} refused user ${place.user}: wrong user name or password (${errno}).`,
      'Check source.mysql.user and password_file; `qazyna doctor --fix` can make the account.',
      { cause, details },
    );
  if (errno === 1130)
    return configurationError(
      'QZ2111',
      `${place.name} allows no connection from this host (1130).`,
      `Make the account for this host: CREATE USER '${place.user}'@'HOST'; or run \`qazyna doctor --fix\`.`,
      { cause, details },
    );
  if ([1044, 1142, 1143, 1227, 1370].includes(errno)) {
    const missing = missingPrivilege(text);
    return configurationError(
      'QZ2116',
      `User ${place.user} lacks ${missing ?? 'a privilege'} on ${place.name}, needed for ${doing} (${errno}: ${text}).`,
      `As an administrator run: GRANT ${missing ?? '…'} ON *.* TO the account that ${place.user} uses; or \`qazyna doctor --fix\`.`,
      { cause, details: { ...details, missing } },
    );
  }
  return configurationError(
    'QZ2117',
    `${place.name} refused while ${doing}: ${text} (${errno}).`,
    'The words are the server’s own; `qazyna doctor` examines its settings.',
    { cause, details },
  );
}

/** `Access denied; you need (at least one of) the SUPER, REPLICATION CLIENT privilege(s) …` → `REPLICATION CLIENT`. */
function missingPrivilege(text: string): string | null {
  const named = /the (.+?) privilege/i.exec(text)?.[1] ?? /^(\w+) command denied/i.exec(text)?.[1];
  if (!named) return null;
  const privileges = named.split(/,\s*|\s+or\s+/i).filter((name) => !/^SUPER$/i.test(name));
  return privileges.join(', ') || named;
}
