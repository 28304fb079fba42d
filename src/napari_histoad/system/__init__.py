"""What has nothing to do with tissue: files, tables, the machine, remembered answers, other packages."""
