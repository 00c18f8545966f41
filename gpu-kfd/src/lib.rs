//! AMD KFD.
