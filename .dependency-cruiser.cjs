// The import arrows as a test: bytes and codecs → stores → histories and plans → programs; programs never import one another.
const core = (...names) => names.map((name) => `^core/${name}/`).join('|');
const layers = [
  ['errors', 'bytes', 'logging'],
  ['progress', 'config', 'binlog'],
  ['chain', 'mysql'],
  ['log', 'archive'],
  ['chunks', 'history'],
  ['snapshot', 'stream'],
];
const upward = layers.slice(0, -1).map((layer, depth) => ({
  name: `core-layer-${depth}-looks-only-down`,
  severity: 'error',
  from: { path: core(...layer) },
  to: { path: core(...layers.slice(depth + 1).flat()) },
}));
const programs = ['agent', 'shipper', 'restore-tool'];
const owners = {
  mysql2: '^core/mysql/|^restore-tool/history/',
  '@vlasky/zongji': '^restore-tool/history/zongji\\.ts$',
  winston: '^core/logging/',
  'p-retry': '^core/errors/retry\\.ts$',
  yaml: '^core/config/|^test/',
  commander: '^cli/|^test/lab/|^bench/',
};

module.exports = {
  forbidden: [
    ...upward,
    { name: 'core-knows-no-program', severity: 'error', from: { path: '^core/' }, to: { path: '^(agent|shipper|restore-tool|cli|test|bench|scripts)/' } },
    ...programs.map((program) => ({
      name: `${program}-stands-alone`,
      severity: 'error',
      from: { path: `^${program}/` },
      to: { path: `^(${programs.filter((other) => other !== program).join('|')}|cli|test|bench|scripts)/` },
    })),
    ...Object.entries(owners).map(([library, owner]) => ({
      name: `one-owner-for-${library.replace(/\W/g, '')}`,
      severity: 'error',
      from: { pathNot: owner },
      to: { path: `^node_modules/${library}/` },
    })),
    { name: 'no-circles', severity: 'error', from: {}, to: { circular: true } },
    { name: 'no-orphan-packages', severity: 'error', from: {}, to: { couldNotResolve: true } },
  ],
  options: { doNotFollow: { path: 'node_modules' }, tsPreCompilationDeps: true, exclude: { path: '^dist/' } },
};
