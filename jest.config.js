export default {
  testEnvironment: 'node',
  roots: ['<rootDir>/test'],
  testMatch: ['**/*.test.ts'],
  // Node itself strips the types of .ts modules; nothing is compiled.
  transform: {},
  extensionsToTreatAsEsm: ['.ts'],
  testTimeout: 60_000,
};
