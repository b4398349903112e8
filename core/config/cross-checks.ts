/** What no single key can show to be wrong: keys that contradict one another, each complaint with its place. */
import { relative, resolve } from 'node:path';
import type { Complaint } from './complaints.ts';
import { configSchema, s3Keys } from './schema.ts';
import { serviceProblems } from './services.ts';
import type { Config } from './types.ts';
import type { YamlFile } from './yaml-file.ts';

/** Exactly one log. */
export function logComplaints(file: string, yaml: YamlFile): Complaint[] {
  const { local, kafka } = configSchema.parse(yaml.data).log;
  if (local !== undefined && kafka !== undefined) {
    const hint = 'Keep one of them: the log is either files on this host or a topic.';
    return [wrong(yaml, file, ['log', 'kafka'], '`log` has both local and kafka', hint)];
  }
  if (local !== undefined || kafka !== undefined) return [];
  return [
    {
      code: 'QZ2014',
      sentence: `\`log.local\` or \`log.kafka\` is missing (${yaml.place(['log'], 'value')} of ${file}).`,
      hint: 'Say where the log is: files on this host (local: { dir: /var/lib/qazyna/log }) or a topic (kafka).',
    },
  ];
}

/** `decides`: the archive that decides who the source is, if one does. */
export function crossComplaints(config: Config, yaml: YamlFile, decides: string | null): Complaint[] {
  return [
    ...archiveComplaints(config, yaml),
    ...folderComplaints(config, yaml),
    ...acknowledgeComplaints(config, yaml),
    ...standbyComplaints(config, yaml, decides),
    ...snapshotComplaints(config, yaml),
    ...serviceComplaints(config, yaml),
    ...drillComplaints(config, yaml),
  ];
}

function drillComplaints({ drill, archives, file }: Config, yaml: YamlFile): Complaint[] {
  const found: Complaint[] = [];
  if (!archives.some(({ name }) => name === drill.archive) && archives.length > 0) {
    const sentence = `\`drill.archive\` names ${drill.archive}, which is no archive of this file`;
    const hint = `Name one of ${archives.map(({ name }) => name).join(', ')}, or leave it out.`;
    found.push(wrong(yaml, file, ['drill', 'archive'], sentence, hint));
  }
  if (drill.everyMs !== null && drill.dir === null) {
    const hint = 'Name a folder with room for all of the data in `drill.dir`.';
    found.push(wrong(yaml, file, ['drill'], '`drill.every` is set, and `drill.dir` is missing', hint));
  }
  return found;
}

function serviceComplaints(config: Config, yaml: YamlFile): Complaint[] {
  const { log, source, file } = config;
  const others = {
    topic: log.kind === 'kafka' ? log.topic : null,
    hasMysql: source.mysql !== null,
    metrics: config.metrics,
  };
  const problems = serviceProblems(config, others);
  return problems.map(({ path, sentence, hint }) => wrong(yaml, file, path, sentence, hint));
}

function standbyComplaints(config: Config, yaml: YamlFile, decidingName: string | null): Complaint[] {
  const { standby, archives, file } = config;
  if (standby === null) return [];
  const found: Complaint[] = [];
  if (!archives.some(({ name }) => name === standby.archive)) {
    const sentence = `\`standby.archive\` names ${standby.archive}, which is no archive of this file`;
    const hint = `Name one of ${archives.map(({ name }) => name).join(', ')}, or leave it out.`;
    found.push(wrong(yaml, file, ['standby', 'archive'], sentence, hint));
  }
  const decides = archives.find(({ name }) => name === decidingName);
  if (decides?.failureDomain === 'same_host') {
    const sentence = `without a Kafka log the pair meets in the archive ${decides.name}, a folder on this very host`;
    const hint = `Name one that both hosts reach in \`standby.archive\`; if ${decides.url} is such a share, say failure_domain: other_host there.`;
    found.push(wrong(yaml, file, ['standby'], sentence, hint));
  }
  const { hooks } = standby.failover;
  if (hooks.length > 0 && /^(0\.0\.0\.0|::)$/.test(standby.advertise.host)) {
    const sentence = '`standby.failover.hooks` would be told to point at every address, which is none';
    const hint = 'Say in `standby.advertise` where applications reach this server, such as 192.0.2.2:3306.';
    found.push(wrong(yaml, file, ['standby', 'failover', 'hooks'], sentence, hint));
  }
  return found;
}

/** A dump would stop what the standby applies. */
function snapshotComplaints({ snapshots, file }: Config, yaml: YamlFile): Complaint[] {
  if (snapshots.from === 'source' || snapshots.engine === 'clone') return [];
  const hint = 'Set engine: clone, or from: source.';
  return [wrong(yaml, file, ['snapshots', 'from'], '`snapshots.from: standby` takes clones only', hint)];
}

function wrong(yaml: YamlFile, file: string, path: readonly string[], sentence: string, hint: string): Complaint {
  return { code: 'QZ2019', sentence: `${sentence} (${yaml.place(path, 'value')} of ${file}).`, hint };
}

function archiveComplaints(config: Config, yaml: YamlFile): Complaint[] {
  const say = (path: string[], sentence: string, hint: string) => wrong(yaml, config.file, path, sentence, hint);
  const found: Complaint[] = [];
  if (config.archives.length === 0)
    found.push(
      say(['archives'], 'There is no archive in `archives`', 'Give at least one, better two in different places.'),
    );
  for (const { name } of config.archives) {
    if (name === 'none' || name === 'log')
      found.push(
        say(
          ['archives', name],
          `An archive cannot be called ${name}`,
          'That word has a meaning in acknowledge_after; take another name.',
        ),
      );
  }
  const { archives } = configSchema.parse(yaml.data);
  for (const { name, dir } of config.archives) {
    const only = [...s3Keys, 'prune_credentials_file' as const];
    const misplaced = dir === null ? undefined : only.find((key) => archives[name]?.[key] !== undefined);
    if (misplaced !== undefined)
      found.push(
        say(
          ['archives', name, misplaced],
          `\`archives.${name}.${misplaced}\` is for s3:// archives, and ${name} is a folder`,
          'Remove it, or give the archive an s3:// URL.',
        ),
      );
  }
  for (const { name, dir } of config.archives) {
    const { object_lock: lock = 'none', checksums } = archives[name] ?? {};
    if (lock === 'none') continue;
    const path = ['archives', name, 'object_lock'];
    if (dir !== null)
      found.push(
        say(path, `\`archives.${name}.object_lock\` is for s3:// archives, and ${name} is a folder`, 'Remove it.'),
      );
    if (checksums === 'when_required')
      found.push(
        say(
          path,
          `\`archives.${name}\` has object_lock, and no checksums, without which S3 locks nothing`,
          'Remove checksums: when_required.',
        ),
      );
  }
  return found;
}

function folderComplaints(config: Config, yaml: YamlFile): Complaint[] {
  const folders: { path: string[]; dir: string }[] = [
    ...(config.log.kind === 'local' ? [{ path: ['log', 'local', 'dir'], dir: config.log.dir }] : []),
    ...config.archives.flatMap(({ name, dir }) =>
      dir === null ? [] : [{ path: ['archives', name, 'url'], dir: resolve(dir) }],
    ),
  ];
  if (config.standby !== null) folders.push({ path: ['standby', 'dir'], dir: config.standby.dir });
  if (config.drill.dir !== null) folders.push({ path: ['drill', 'dir'], dir: config.drill.dir });
  const scratch = config.snapshots.scratchDir;
  if (scratch !== null) folders.push({ path: ['snapshots', 'scratch_dir'], dir: scratch });
  const found: Complaint[] = [];
  if (scratch === null && config.snapshots.engine === 'clone' && config.source.mysql !== null)
    found.push(
      wrong(
        yaml,
        config.file,
        ['snapshots'],
        '`snapshots.scratch_dir` is missing, and the clone engine needs it',
        'Name a folder that mysqld may write to, with room for a second copy of its data, or set engine: logical.',
      ),
    );
  for (const [index, one] of folders.entries()) {
    for (const other of folders.slice(index + 1)) {
      if (!within(one.dir, other.dir) && !within(other.dir, one.dir)) continue;
      const [a, b] = [one.path.join('.'), other.path.join('.')];
      found.push(
        wrong(
          yaml,
          config.file,
          other.path,
          `\`${b}\` and \`${a}\` are the same folder or one lies inside the other (${other.dir}, ${one.dir})`,
          'Give each a folder of its own, archives best on other disks.',
        ),
      );
    }
  }
  return found;
}

function within(outer: string, inner: string): boolean {
  const path = relative(outer, inner);
  return path !== '..' && !path.startsWith('../');
}

/** chain.md's rule: what acknowledges a commit must outlive this host, else "RPO 0" would be a lie. */
function acknowledgeComplaints(config: Config, yaml: YamlFile): Complaint[] {
  const after = config.source.acknowledgeAfter;
  if (after === 'none') return [];
  const path = ['source', 'acknowledge_after'];
  const say = (sentence: string, hint: string) => [wrong(yaml, config.file, path, sentence, hint)];
  if (after === 'log' && config.log.kind === 'kafka') return [];
  if (config.log.kind === 'kafka')
    return say(
      `\`source.acknowledge_after\` names ${after}, but with a Kafka log the topic is where commits wait`,
      'Set log: what is in the topic survives this host, and every archive follows from it. Or none.',
    );
  if (after === 'log')
    return say(
      '`source.acknowledge_after: log` would promise what a local log cannot keep: it dies with this host',
      'Set none, or the name of an archive with failure_domain: other_host.',
    );
  const archive = config.archives.find(({ name }) => name === after);
  if (!archive)
    return say(
      `\`source.acknowledge_after\` names ${after}, which is no archive of this file`,
      `Set none or one of ${config.archives.map(({ name }) => name).join(', ')}.`,
    );
  if (archive.failureDomain === 'same_host')
    return say(
      `\`source.acknowledge_after\` names ${after}, a folder on this very host, which would be lost with it`,
      `If ${archive.url} really outlives this host, say failure_domain: other_host there; else set none.`,
    );
  return [];
}
