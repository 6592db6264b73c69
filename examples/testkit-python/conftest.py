pytest_plugins = ["taskseal.testing"]
