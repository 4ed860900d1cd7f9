//! ListSnapshots and GetSnapshot.
