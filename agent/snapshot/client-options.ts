/**
 * An option file for MySQL's client programs: the password reaches them in a file that only this account can read, never in
 * argv. Quoting: https://dev.mysql.com/doc/refman/9.7/en/option-files.html
 */
import type { MysqlEndpoint } from '../../core/mysql/connection.ts';

/** `more`: options in another group, `[group, name, value]`. */
export function clientOptions(endpoint: MysqlEndpoint, more: readonly [string, string, string][] = []): string {
  const tls = endpoint.tls ?? { mode: 'preferred' };
  const options: Record<string, string | undefined> = {
    user: endpoint.user,
    password: endpoint.password,
    ...(endpoint.socketPath
      ? { socket: endpoint.socketPath, protocol: 'SOCKET' }
      : { host: endpoint.host, port: String(endpoint.port), protocol: 'TCP' }),
    'ssl-mode': tls.mode.toUpperCase(),
    'ssl-ca': tls.caFile,
    'ssl-cert': tls.certFile,
    'ssl-key': tls.keyFile,
  };
  const lines = Object.entries(options).flatMap(([name, value]) =>
    value === undefined ? [] : [`${name}=${quoted(value)}`],
  );
  if (tls.mode === 'disabled') lines.push('get-server-public-key');
  lines.push(...more.map(([group, name, value]) => `[${group}]\n${name}=${quoted(value)}`));
  return `[client]\n${lines.join('\n')}\n`;
}

/** Between double quotes only the backslash and line breaks mean something else than themselves. */
function quoted(value: string): string {
  const escaped = value.replace(/\\/g, '\\\\').replace(/\n/g, '\\n').replace(/\r/g, '\\r').replace(/\t/g, '\\t');
  return `"${escaped}"`;
}
