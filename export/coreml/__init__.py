"""Core ML packages: conversion, files, and proof by running their programs in torch."""
