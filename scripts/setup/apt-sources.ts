/**
 * Which archive this machine's own apt uses: read from its sources, so that no mirror's address stands in this project.
 * Both forms of sources.list(5) are read: one-line `.list` and deb822 `.sources`.
 */
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';

export interface AptSource {
  uris: string[];
  suites: string[];
  components: string[];
  /** A keyring's path, or an inline key block as it stands in the file (continuation lines indented); null when unsaid. */
  signedBy: string | null;
}

/** The folder is `/etc/apt` but in tests. */
export async function readAptSources(folder = '/etc/apt'): Promise<AptSource[]> {
  const parts = await readdir(join(folder, 'sources.list.d')).catch(() => []);
  const files = ['sources.list', ...parts.sort().map((name) => join('sources.list.d', name))];
  const sources: AptSource[] = [];
  for (const file of files) {
    const text = await readFile(join(folder, file), 'utf8').catch(() => '');
    if (file.endsWith('.list')) sources.push(...parseOneLine(text));
    else if (file.endsWith('.sources')) sources.push(...parseDeb822(text));
  }
  return sources;
}

/** `deb [options] uri suite component…`, one a line. */
export function parseOneLine(text: string): AptSource[] {
  const sources: AptSource[] = [];
  for (const line of text.split('\n')) {
    const match = /^\s*deb\s+(?:\[([^\]]*)\]\s+)?(\S+)\s+(\S+)((?:\s+[^#\s]\S*)*)/.exec(line);
    if (!match) continue;
    const [, options = '', uri = '', suite = '', components = ''] = match;
    const signedBy = /(?:^|\s)signed-by=(\S+)/i.exec(options)?.[1] ?? null;
    sources.push({ uris: [uri], suites: [suite], components: components.split(/\s+/).filter(Boolean), signedBy });
  }
  return sources;
}

/** Stanzas of `Field: value` with indented continuation lines, parted by empty lines. */
export function parseDeb822(text: string): AptSource[] {
  const sources: AptSource[] = [];
  for (const stanza of text.split(/\n[ \t]*(?:\n|$)/)) {
    const fields = new Map<string, string>();
    let name = '';
    for (const line of stanza.split('\n')) {
      const match = /^([A-Za-z-]+):\s*(.*)$/.exec(line);
      if (match) {
        name = (match[1] ?? '').toLowerCase();
        fields.set(name, (match[2] ?? '').trim());
      } else if (/^\s+\S/.test(line) && name) fields.set(name, `${fields.get(name)}\n${line}`);
    }
    const words = (field: string) => (fields.get(field) ?? '').split(/\s+/).filter(Boolean);
    const enabled = !/^(no|false|off|0|without|disable)$/i.test(fields.get('enabled') ?? 'yes');
    if (!enabled || !words('types').includes('deb') || words('uris').length === 0) continue;
    sources.push({
      uris: words('uris'),
      suites: words('suites'),
      components: words('components'),
      signedBy: fields.get('signed-by') || null,
    });
  }
  return sources;
}

export interface OsRelease {
  id: string;
  codename: string;
}

export async function readOsRelease(path = '/etc/os-release'): Promise<OsRelease> {
  const text = await readFile(path, 'utf8').catch(() => '');
  const field = (name: string) => new RegExp(`^${name}="?([^"\\n]*)"?$`, 'm').exec(text)?.[1] ?? '';
  return { id: field('ID'), codename: field('VERSION_CODENAME') || field('UBUNTU_CODENAME') };
}

/**
 * The sources that are the distribution's main archive, most likely first: those carrying component `main` of the
 * machine's own suite (or a rolling one), the distribution's keyring or folder name deciding among several.
 */
export function mainArchives(sources: AptSource[], os: OsRelease): AptSource[] {
  const suites = new Set([os.codename, 'sid', 'unstable', 'testing', 'stable', 'oldstable'].filter(Boolean));
  const likeness = (source: AptSource) =>
    Number(/(debian|ubuntu)-archive/.test(source.signedBy ?? '')) * 2 +
    Number(source.uris.some((uri) => /\/(debian|ubuntu|ubuntu-ports)\/?$/.test(uri)));
  return sources
    .filter((source) => source.components.includes('main') && source.suites.some((suite) => suites.has(suite)))
    .filter((source) => source.uris.every((uri) => !uri.startsWith('cdrom:')))
    .sort((a, b) => likeness(b) - likeness(a));
}
